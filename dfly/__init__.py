"""dfly spreads big files over many hosts: each byte leaves the source once.

The floors of this package; imports go down only (tests/test_architecture.py holds them to it):

    0 words      errors units clock digest names task  values, of the standard library only
    1 wire       wire/     bytes <-> values: frames, messages, session, HTTP/1.1; no I/O
    2 core       core/     decisions: deterministic machines; no clock, no randomness, no I/O
    3 adapters   net/ store/ source/                   the only code that touches the outside
    4 services   config.py service/                    config server, manager, peer
    5 cli        cli/      the command line: a table of commands, each imported only when run
      side       sim/      the second driver of core, in virtual time; floors 0-2 only
      start      __main__.py codecache.py codesave.py  how the zipapp comes up

Only __version__ may live in this file: every start of dfly pays for what it imports.
"""

__version__ = "0.1.0"

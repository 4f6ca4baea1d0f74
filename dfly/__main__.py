"""Where dfly starts, as `python -m dfly` and as the zipapp (this file is the root of the zip, too).

Everything above the version check must parse on Python 2.7 and 3.6, so that an old interpreter
gets one clear line instead of a SyntaxError: no annotations and no f-strings in this file.
"""
import os
import sys

if sys.version_info < (3, 9):
    sys.stderr.write("dfly: needs Python 3.9 or newer, and this is %d.%d: "
                     "start it by a newer one, like python3.9 %s\n"
                     % (sys.version_info[0], sys.version_info[1], sys.argv[0] or "dfly"))
    sys.exit(2)


def start():
    # type: () -> int
    import _signal  # type: ignore[import-not-found]  # signal's own module would cost 1 ms more
    if _signal.getsignal(_signal.SIGINT) is not _signal.SIG_IGN:
        _signal.signal(_signal.SIGINT, end_at_once)
    if __name__ == "__main__" and not __package__:  # the zip's root: its modules have no bytecode
        from dfly import codecache
        codecache.install(sys.path[0])
    from dfly.cli import main
    return main()


def end_at_once(number, frame):
    # type: (int, object) -> None
    """Ctrl-C before main() is there: dfly.cli.Loading says why it isn't raised."""
    os._exit(130)


def leave(code):
    # type: (int) -> None
    """End the process. Taking an interpreter apart is a tenth of what a small download costs, and
    a client has nothing left to be ended: its files are closed, its threads wait for work. Roles,
    which load asyncio, are left to Python."""
    if "asyncio" in sys.modules:
        sys.exit(code)
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            pass  # what main() couldn't write it has told of
    os._exit(code)


if __name__ == "__main__":
    try:
        exit_code = start()
    except KeyboardInterrupt:  # before main() could catch it, or again while it did its last
        exit_code = 130
    try:
        leave(exit_code)
    except KeyboardInterrupt:
        os._exit(130)

"""Download URLs like wget, through the swarm of hosts that want the same file.

Only the options are here, so that `dfly help get` stays quick; getting.py does the work.
"""
from __future__ import annotations

from dfly.cli.parser import Arguments, CommandParser
from dfly.config import GetSettings, add_flags

ALIASES = {"no_source": ("--notbs",), "timeout_s": ("-T",), "tries": ("-t",)}


def add_arguments(parser: CommandParser) -> None:
    parser.add_argument("urls", nargs="+", metavar="URL", help="what to download")
    parser.add_argument("-O", "--output-document", dest="output", metavar="FILE",
                        help="write to FILE, replacing it; - is standard output, in order while "
                             "pieces arrive")
    parser.add_argument("-P", "--directory-prefix", dest="folder", metavar="DIR",
                        help="save into DIR")
    parser.add_argument("-q", "--quiet", action="store_true", help="print errors only")
    parser.add_argument("-H", "--header", dest="headers", action="append", default=[],
                        metavar="'NAME: VALUE'", help="send this header to the source; may be "
                        "repeated")
    parser.add_argument("--digest", metavar="ALGORITHM:HEX",
                        help="what the content must be: sha256, sha512, sha1 or md5; with sha256 "
                             "it also names the file, whatever URL it comes from")
    parser.add_argument("-m", "--md5", metavar="HEX", help="short for --digest md5:HEX")
    parser.add_argument("--tag", default="", help="keep this download apart from others of the "
                        "same URL that bear another tag")
    parser.add_argument("--json", action="store_true", help="print one JSON event a line on "
                        "standard output")
    add_flags(parser, GetSettings, ALIASES)


def run(args: Arguments) -> int:
    from dfly.cli.getting import get_all
    return get_all(args)

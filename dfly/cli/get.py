"""Download URLs like wget, through the swarm of hosts that want the same file.

Only the options are here, so that `dfly help get` stays quick; getting.py does the work.
"""
from __future__ import annotations

from dfly.cli import Loading
from dfly.cli.parser import Arguments, CommandParser
from dfly.cli.wget import add_foreign
from dfly.config import GetSettings, add_flags

ALIASES = {"no_source": ("--notbs",), "timeout_s": ("-T",), "tries": ("-t",), "wait_s": ("-w",),
           "jobs": ("-j",), "user_agent": ("-U",)}
VALUES = {   # words that options take; what else they do is where they are read
    "--progress": ("bar", "dot", "none", "json"), "--method": ("GET", "HEAD"),
    "--secure-protocol": ("auto", "TLSv1_2", "TLSv1_3"),
    "--restrict-file-names": ("unix", "windows", "nocontrol", "ascii", "lowercase", "uppercase")}


def add_arguments(parser: CommandParser) -> None:
    parser.add_argument("urls", nargs="*", metavar="URL", help="what to download")
    _add_places(parser)
    _add_choices(parser)
    _add_output(parser)
    _add_asking(parser)
    _add_checks(parser)
    add_flags(parser, GetSettings, ALIASES)
    add_foreign(parser)


def _add_places(parser: CommandParser) -> None:
    """Where files go."""
    parser.add_argument("-O", "--output-document", dest="output", metavar="FILE",
                        help="write to FILE, replacing it; - is standard output, in order while "
                             "pieces arrive; several URLs are put one after the other")
    parser.add_argument("-P", "--directory-prefix", dest="folder", metavar="DIR",
                        help="save into DIR")
    parser.add_argument("-nc", "--no-clobber", action="store_true",
                        help="leave a file alone that exists already")
    parser.add_argument("-c", "--continue", dest="resume", action="store_true",
                        help="go on with a file that came in part, by whatever program; what is "
                             "there is compared, not believed")
    parser.add_argument("-N", "--timestamping", action="store_true",
                        help="fetch only what is newer than the file that is here, or of another "
                             "size, and replace it")
    parser.add_argument("--no-use-server-timestamps", action="store_true",
                        help="the file gets the time of now, not the source's")
    parser.add_argument("--backups", metavar="N", bare="1",
                        help="keep N older files (one, without =N) as FILE.1, FILE.2 ... when one "
                             "is replaced")
    parser.add_argument("-x", "--force-directories", action="store_true",
                        help="make folders as in the URL: host/path/file")
    parser.add_argument("-nd", "--no-directories", action="store_true",
                        help="make no folders (so it is anyhow, without -x)")
    parser.add_argument("-nH", "--no-host-directories", action="store_true",
                        help="no folder for the host")
    parser.add_argument("--protocol-directories", action="store_true",
                        help="a folder for http or https")
    parser.add_argument("--cut-dirs", metavar="N", help="leave the first N folders of the path out")
    parser.add_argument("--default-page", metavar="NAME",
                        help="name for a URL that ends in a slash (default index.html)")
    parser.add_argument("--restrict-file-names", metavar="MODES",
                        help="unix, windows, nocontrol, ascii, lowercase, uppercase; a comma list")


def _add_choices(parser: CommandParser) -> None:
    """Which files, and how they are gone about."""
    parser.add_argument("-i", "--input-file", metavar="FILE",
                        help="read URLs from FILE, one a line, maybe after 'sha256:HEX'; - is "
                             "standard input")
    parser.add_argument("-B", "--base", metavar="URL", help="what lines of -i are relative to")
    parser.add_argument("--mirror", action="store_true",
                        help="the URLs are mirrors of one file")
    parser.add_argument("--metalink", "--input-metalink", metavar="FILE",
                        help="fetch what a Metalink file lists, from its mirrors, by its hashes")
    parser.add_argument("--range", metavar="A-B", dashed=True,
                        help="only bytes A to B, both counted from 0 and included; A- to the end, "
                             "-N the last N")
    parser.add_argument("--start-pos", metavar="N", help="short for --range N-")
    parser.add_argument("--spider", action="store_true",
                        help="fetch nothing, tell whether it is there")
    parser.add_argument("--method", metavar="METHOD",
                        help="GET, or HEAD: the same as --spider")
    parser.add_argument("-b", "--background", action="store_true",
                        help="go on in the background, with the log in dfly-log if there's no -o")
    parser.add_argument("--random-wait", action="store_true",
                        help="wait between half of --wait and one and a half times")
    parser.add_argument("-4", "--inet4-only", action="store_true", help="use IPv4 only")
    parser.add_argument("-6", "--inet6-only", action="store_true", help="use IPv6 only")
    parser.add_argument("-e", "--execute", action="append", default=[], metavar="COMMAND",
                        help="a line of a .wgetrc: http_proxy, https_proxy, no_proxy, use_proxy, "
                             "robots")
    parser.add_argument("--no-config", action="store_true", help="read no settings file")
    parser.add_argument("--tag", default="", metavar="TAG",
                        help="keep this download apart from others of the "
                        "same URL that bear another tag")


def _add_output(parser: CommandParser) -> None:
    """What is told, and where."""
    parser.add_argument("-q", "--quiet", action="store_true", help="print errors only")
    parser.add_argument("-nv", "--no-verbose", action="store_true", help="print a line a file")
    parser.add_argument("-v", "--verbose", action="store_true", help="print more")
    parser.add_argument("-d", "--debug", action="store_true", help="the same as --verbose")
    parser.add_argument("-S", "--server-response", action="store_true",
                        help="print what the server answered")
    parser.add_argument("--show-progress", action="store_true",
                        help="draw the bar however quiet it is else")
    parser.add_argument("-o", "--output-file", dest="log", metavar="FILE",
                        help="print to FILE instead of standard error")
    parser.add_argument("-a", "--append-output", dest="log_append", metavar="FILE",
                        help="the same, at the end of FILE")
    parser.add_argument("--json", action="store_true",
                        help="print one JSON event a line on standard output; the same as "
                             "--progress=json")
    parser.add_argument("--explain", action="store_true",
                        help="tell at the end why it took as long as it did")


def _add_asking(parser: CommandParser) -> None:
    """How sources are asked."""
    parser.add_argument("-H", "--header", dest="headers", action="append", default=[],
                        metavar="'NAME: VALUE'", help="send this header to the source; may be "
                        "repeated")
    parser.add_argument("--referer", metavar="URL", help="short for a header Referer")
    parser.add_argument("--no-cache", action="store_true",
                        help="ask caches on the way to the source for a fresh copy")
    parser.add_argument("--user", "--http-user", metavar="NAME", help="user to name when asked")
    parser.add_argument("--password", "--http-password", metavar="TEXT",
                        help="password; who lists processes sees it: rather use --ask-password, "
                             "--password-file or ~/.netrc")
    parser.add_argument("--password-file", metavar="FILE",
                        help="password, from the first line of FILE")
    parser.add_argument("--ask-password", action="store_true",
                        help="ask for the password on the terminal")
    parser.add_argument("--use-askpass", metavar="COMMAND",
                        help="ask for what is missing by COMMAND")
    parser.add_argument("--auth-no-challenge", action="store_true",
                        help="send user and password before the source asks for them")
    parser.add_argument("--proxy-user", metavar="NAME", help="user to name to the proxy")
    parser.add_argument("--proxy-password", metavar="TEXT", help="password for the proxy")
    parser.add_argument("--load-cookies", metavar="FILE", help="send cookies from FILE")
    parser.add_argument("--save-cookies", metavar="FILE",
                        help="save to FILE what cookies the source sets")
    parser.add_argument("--keep-session-cookies", action="store_true",
                        help="save those, too, that are for one session")
    parser.add_argument("--certificate", metavar="FILE", help="certificate to show when asked; "
                        "the host then goes to the source alone: its key stays here")
    parser.add_argument("--private-key", metavar="FILE", help="key of that certificate")
    parser.add_argument("--pinnedpubkey", metavar="FILE|HASHES",
                        help="believe a server with this public key only: a PEM or DER file, or "
                             "sha256//BASE64;...")


def _add_checks(parser: CommandParser) -> None:
    """What the content must be."""
    parser.add_argument("--digest", "--checksum", metavar="ALGORITHM:HEX",
                        help="what the content must be: sha256, sha512, sha1 or md5; with sha256 "
                             "it also names the file, whatever URL it comes from")
    parser.add_argument("-m", "--md5", metavar="HEX", help="short for --digest md5:HEX")
    parser.add_argument("--checksum-file", metavar="FILE",
                        help="a file like SHA256SUMS that lists what the contents must be")


def run(args: Arguments) -> int:
    with Loading():
        from dfly.cli.getting import get_all
    return get_all(args)

"""wget's options for downloading that `dfly get` doesn't do: which are passed over with a warning,
which are refused, and why. What it does is in get.py; the manual's table is held to both by a test.

An option is passed over where the file comes out right without it, and refused where somebody
would miss what he asked for.
"""
from __future__ import annotations

from dfly.errors import UsageError

TYPE_CHECKING = False  # typing's own costs each start 2 ms
if TYPE_CHECKING:
    from typing import List, Tuple

    from dfly.cli.parser import Arguments, CommandParser

_NO_RECURSION = "dfly get downloads files, it doesn't walk through HTML pages"
_NO_FTP = "dfly get speaks HTTP and HTTPS only"
_NO_WARC = "dfly get writes files, no archives of requests"
_ONLY_GET = "only what GET gives can be shared by many hosts: use curl for this"
_NO_SUCH_CACHE = "the peer daemon keeps no such cache"
_KEPT_AS_IS = "the bytes are spread and written as they are"

# (names, takes a value, why)
IGNORED: Tuple[Tuple[Tuple[str, ...], bool, str], ...] = (
    (("--no-dns-cache",), False, _NO_SUCH_CACHE),
    (("--dns-timeout",), True, "--connect-timeout counts for finding the address, too"),
    (("--no-if-modified-since",), False, "-N always asks the source what it has"),
    (("--prefer-family",), True, "addresses are tried as the system sorts them; -4 and -6 force"),
    (("--no-iri",), False, "URLs are escaped as they are"),
    (("--local-encoding",), True, "URLs are UTF-8"),
    (("--remote-encoding",), True, "URLs are UTF-8"),
    (("--ignore-case",), False, "there are no file lists to match"),
    (("--unlink",), False, "a file is always replaced whole"),
    (("--xattr",), False, "the file may be one with the daemon's own"),
    (("-E", "--adjust-extension"), False, "files keep the names that their URLs give"),
    (("--ignore-length",), False, "a length that the source tells is always checked"),
    (("--compression",), True, _KEPT_AS_IS),
    (("--no-http-keep-alive",), False, "the daemon closes connections when it has no use for them"),
    (("--no-cookies",), False, "cookies live as long as one download"),
    (("--no-hsts",), False, _NO_SUCH_CACHE),
    (("--hsts-file",), True, _NO_SUCH_CACHE),
    (("-Q", "--quota"), True, "it never held for a single file"),
    (("--rejected-log",), True, "nothing is rejected without recursion"),
    (("--report-speed",), True, "rates are told in bytes"),
    (("--no-glob",), False, _NO_FTP),
    (("--no-passive-ftp",), False, _NO_FTP),
    (("--no-remove-listing",), False, _NO_FTP),
    (("--preserve-permissions",), False, _NO_FTP),
)
REFUSED: Tuple[Tuple[Tuple[str, ...], bool, str], ...] = (
    (("-r", "--recursive"), False, _NO_RECURSION),
    (("-l", "--level"), True, _NO_RECURSION),
    (("-p", "--page-requisites"), False, _NO_RECURSION),
    (("-A", "--accept"), True, _NO_RECURSION),
    (("-R", "--reject"), True, _NO_RECURSION),
    (("--accept-regex",), True, _NO_RECURSION),
    (("--reject-regex",), True, _NO_RECURSION),
    (("--regex-type",), True, _NO_RECURSION),
    (("-D", "--domains"), True, _NO_RECURSION),
    (("--exclude-domains",), True, _NO_RECURSION),
    (("-L", "--relative"), False, _NO_RECURSION),
    (("--span-hosts",), False, _NO_RECURSION),
    (("-I", "--include-directories"), True, _NO_RECURSION),
    (("-X", "--exclude-directories"), True, _NO_RECURSION),
    (("-np", "--no-parent"), False, _NO_RECURSION),
    (("--follow-ftp",), False, _NO_RECURSION),
    (("--follow-tags",), True, _NO_RECURSION),
    (("--ignore-tags",), True, _NO_RECURSION),
    (("--convert-links",), False, _NO_RECURSION),
    (("--convert-file-only",), False, _NO_RECURSION),
    (("-K", "--backup-converted"), False, _NO_RECURSION),
    (("--strict-comments",), False, _NO_RECURSION),
    (("--delete-after",), False, "to warm a cache, use -O /dev/null"),
    (("-F", "--force-html"), False, "-i takes lists of URLs, no HTML"),
    (("-k",), False, "it is wget's --convert-links and curl's --insecure: for the latter write "
                     "--no-check-certificate"),
    (("--post-data",), True, _ONLY_GET),
    (("--post-file",), True, _ONLY_GET),
    (("--body-data",), True, _ONLY_GET),
    (("--body-file",), True, _ONLY_GET),
    (("--save-headers",), False, "headers aren't a part of the file: -S shows them"),
    (("--content-on-error",), False, "what comes with an error isn't the file"),
    (("--https-only",), False, "it only concerns links in pages"),
    (("--bind-address",), True, "the peer daemon connects, not this command"),
    (("--certificate-type",), True, "certificates are PEM"),
    (("--private-key-type",), True, "keys are PEM"),
    (("--ftp-user",), True, _NO_FTP),
    (("--ftp-password",), True, _NO_FTP),
    (("--retr-symlinks",), False, _NO_FTP),
    (("--ftps-implicit",), False, _NO_FTP),
    (("--ftps-resume-ssl",), False, _NO_FTP),
    (("--ftps-clear-data-connection",), False, _NO_FTP),
    (("--ftps-fallback-to-ftp",), False, _NO_FTP),
    (("--warc-file",), True, _NO_WARC),
    (("--warc-header",), True, _NO_WARC),
    (("--warc-max-size",), True, _NO_WARC),
    (("--warc-cdx",), False, _NO_WARC),
    (("--warc-dedup",), True, _NO_WARC),
    (("--no-warc-compression",), False, _NO_WARC),
    (("--no-warc-digests",), False, _NO_WARC),
    (("--no-warc-keep-log",), False, _NO_WARC),
    (("--warc-tempdir",), True, _NO_WARC),
)


def add_foreign(parser: CommandParser) -> None:
    """Let the parser know them all, out of sight."""
    for names, takes_value, _ in (*IGNORED, *REFUSED):
        parser.add_hidden(*names, dest=_dest(names), takes_value=takes_value)


def foreign(args: Arguments) -> List[str]:
    """Warnings about the options passed over; UsageError for one that is refused."""
    for names, _, why in REFUSED:
        if getattr(args, _dest(names)) is not None:
            raise UsageError(f"{names[0]} can't be done", why)
    return [f"{names[-1]} changes nothing: {why}" for names, _, why in IGNORED
            if getattr(args, _dest(names)) is not None]


def _dest(names: Tuple[str, ...]) -> str:
    return "wget_" + names[-1].strip("-").replace("-", "_")

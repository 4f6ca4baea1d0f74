"""The manual pages say what the parsers and the errors say."""
from __future__ import annotations

import argparse
import re
import shutil
import subprocess
from pathlib import Path
from typing import Dict, List, Set, Tuple

import pytest

from dfly import __version__, errors
from dfly.cli import COMMANDS, INTERRUPTED, PIPE_CLOSED, parser_for, wget

MAN = Path(__file__).resolve().parents[2] / "man"


def plain(page: Path) -> str:
    """The source with escapes and fonts undone."""
    text = page.read_text(encoding="utf-8").replace("\\-", "-").replace("\\e", "\\")
    return re.sub(r"\\f[A-Z]|\\&", "", text)


def section(page: Path, name: str) -> str:
    match = re.search(rf"^\.SH {name}\n(.*?)(?=^\.SH |\Z)", plain(page), re.S | re.M)
    assert match is not None, f"{page.name} has no {name}"
    return match[1]


def entries(text: str) -> Dict[str, str]:
    """{tag: text} of the .TP entries; a tag without its macro."""
    found = {}
    for entry in text.split(".TP\n")[1:]:
        tag, _, body = entry.partition("\n")
        found[re.sub(r"^\.[BI][BRI]? ", "", tag).replace('"', "")] = body.strip()
    return found


def options_in(tag: str) -> Set[str]:
    return {word.rstrip(",") for word in tag.split() if word.startswith("-")}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_page_lists_exactly_the_options_of_its_parser(name: str) -> None:
    parser = parser_for(name)[1].full()
    listed = entries(section(MAN / f"dfly-{name}.1", "OPTIONS"))
    told: List[Set[str]] = [options_in(tag) for tag in listed if tag.startswith("-")]
    shown = [action for action in parser._actions if action.help != argparse.SUPPRESS]
    known = [set(action.option_strings) for action in shown if action.option_strings]
    assert sorted(map(sorted, told)) == sorted(map(sorted, known))
    for action in shown:
        if action.option_strings and not isinstance(action, argparse._HelpAction):
            (tag,) = [tag for tag in listed if options_in(tag) == set(action.option_strings)]
            assert listed[tag], f"{tag} without a word"
            if action.nargs != 0 and action.metavar:
                assert tag.endswith(f" {action.metavar}"), tag


# wget 1.21's whole list, as its --help has it.
WGET = """
-V -h -b -e -o -a -d -q -v -nv --report-speed -i -F -B --config --no-config --rejected-log -t
--retry-connrefused --retry-on-http-error -O -nc --no-netrc -c --start-pos --progress
--show-progress -N --no-if-modified-since --no-use-server-timestamps -S --spider -T --dns-timeout
--connect-timeout --read-timeout -w --waitretry --random-wait --no-proxy -Q --bind-address
--limit-rate --no-dns-cache --restrict-file-names --ignore-case -4 -6 --prefer-family --user
--password --ask-password --use-askpass --no-iri --local-encoding --remote-encoding --unlink
--xattr -nd -x -nH --protocol-directories -P --cut-dirs --http-user --http-password --no-cache
--default-page -E --ignore-length --header --compression --max-redirect --proxy-user
--proxy-password --referer --save-headers -U --no-http-keep-alive --no-cookies --load-cookies
--save-cookies --keep-session-cookies --post-data --post-file --method --body-data --body-file
--content-disposition --content-on-error --auth-no-challenge --secure-protocol --https-only
--no-check-certificate --certificate --certificate-type --private-key --private-key-type
--ca-certificate --ca-directory --crl-file --pinnedpubkey --ciphers --no-hsts --hsts-file
--ftp-user --ftp-password --no-remove-listing --no-glob --no-passive-ftp --preserve-permissions
--retr-symlinks --ftps-implicit --ftps-resume-ssl --ftps-clear-data-connection
--ftps-fallback-to-ftp --warc-file --warc-header --warc-max-size --warc-cdx --warc-dedup
--no-warc-compression --no-warc-digests --no-warc-keep-log --warc-tempdir -r -l --delete-after -k
--convert-file-only --backups -K -m -p --strict-comments -A -R --accept-regex --reject-regex
--regex-type -D --exclude-domains --follow-ftp --follow-tags --ignore-tags -H -L -I
--trust-server-names -X -np
"""
# See the remarks there.
OTHERWISE = {"-m": "other", "--mirror": "other", "-H": "refused", "-V": "yes", "--version": "yes",
             "--config": "other"}


def wget_table() -> Dict[str, str]:
    """{each of wget's options: what the page says becomes of it}."""
    text = section(MAN / "dfly-get.1", "WGET'S OPTIONS").partition("\n_\n")[2].partition(".TE")[0]
    rows = [line.split("\t") for line in text.splitlines() if line]
    assert all(len(row) == 3 and (row[2] or row[1] == "yes") for row in rows)
    return {name: row[1] for row in rows for name in row[0].split(", ")}


def test_the_page_of_get_tells_of_each_option_of_wget() -> None:
    told = wget_table()
    assert set(WGET.split()) <= set(told)
    shown = {name for action in parser_for("get")[1].full()._actions
             if action.help != argparse.SUPPRESS for name in action.option_strings}
    ignored = {name for names, _, _ in wget.IGNORED for name in names}
    refused = {name for names, _, _ in wget.REFUSED for name in names}
    assert not ignored & refused and not shown & (ignored | refused) and ignored <= set(told)
    for name, state in told.items():
        assert state == OTHERWISE.get(name) or state == (
            "refused" if name in refused else "ignored" if name in ignored
            else "yes" if name in shown else "other"), name


@pytest.mark.parametrize("names, takes_value, why", [*wget.IGNORED, *wget.REFUSED])
def test_what_isnt_done_is_told_with_its_reason(names: Tuple[str, ...], takes_value: bool,
                                                why: str) -> None:
    for name in names:
        words = [name, "7"] if takes_value else [name]
        args = parser_for("get")[1].parse([*words, "http://f/a"])
        if names in [other for other, _, _ in wget.REFUSED]:
            with pytest.raises(errors.UsageError, match=re.escape(why)):
                wget.foreign(args)
        else:
            assert wget.foreign(args) == [f"{names[-1]} changes nothing: {why}"]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_page_names_its_command_as_the_table_does(name: str) -> None:
    assert section(MAN / f"dfly-{name}.1", "NAME").strip() == (
        f"dfly-{name} - {COMMANDS[name].summary}")


def test_the_first_page_lists_all_commands() -> None:
    listed = entries(section(MAN / "dfly.1", "COMMANDS"))
    assert [tag.split()[0] for tag in listed] == [f"dfly-{name}" for name in COMMANDS]


def test_exit_codes_are_those_of_the_errors() -> None:
    listed = {int(tag): body for tag, body in entries(section(MAN / "dfly.1",
                                                              "EXIT STATUS")).items()}
    assert {error.exit_code for error in errors.ALL} == set(range(1, 13))
    for error in errors.ALL:
        assert listed.pop(error.exit_code) == error.meaning[0].upper() + error.meaning[1:] + "."
    assert set(listed) == {0, INTERRUPTED, PIPE_CLOSED}


@pytest.mark.parametrize("page", sorted(MAN.glob("*.[1-8]")), ids=lambda page: page.name)
def test_pages_are_clean(page: Path) -> None:
    title = next(line for line in plain(page).splitlines() if not line.startswith("'"))
    assert title.startswith(".TH ") and f'"dfly {__version__}"' in title
    if shutil.which("mandoc"):
        done = subprocess.run(["mandoc", "-T", "lint", "-W", "warning", str(page)],
                              capture_output=True, text=True, check=False)
        assert done.stdout + done.stderr == ""
    elif shutil.which("man"):
        done = subprocess.run(["man", "--warnings", "-l", str(page)], capture_output=True,
                              text=True, check=False)
        assert done.returncode == 0 and done.stderr == ""
    else:
        pytest.skip("neither mandoc nor man on this machine")

"""The manual pages say what the parsers and the errors say."""
from __future__ import annotations

import argparse
import re
import shutil
import subprocess
from pathlib import Path
from typing import Dict, List, Set

import pytest

from dfly import __version__, errors
from dfly.cli import COMMANDS, INTERRUPTED, PIPE_CLOSED, parser_for

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
    known = [set(action.option_strings) for action in parser._actions if action.option_strings]
    assert sorted(map(sorted, told)) == sorted(map(sorted, known))
    for action in parser._actions:
        if action.option_strings and not isinstance(action, argparse._HelpAction):
            (tag,) = [tag for tag in listed if options_in(tag) == set(action.option_strings)]
            assert listed[tag], f"{tag} without a word"
            if action.nargs != 0 and action.metavar:
                assert tag.endswith(f" {action.metavar}"), tag


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
    title = plain(page).splitlines()[0]
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

"""The plain reading of a command line gives what argparse gives, or nothing."""
from __future__ import annotations

import random
import re
from typing import Any, Dict, List, Optional

import pytest

from dfly.cli import COMMANDS, parser_for
from dfly.cli.parser import HIDDEN
from dfly.errors import UsageError

LINES = 300
VALUES = ["x", "", "-", "--", "-5", "a b", "--x", "=", "http://f/a", "-h", "1"]


def by_argparse(parser: Any, words: List[str]) -> Optional[Dict[str, Any]]:
    try:
        return vars(parser.full().parse_intermixed_args(words))
    except (UsageError, SystemExit):
        return None


@pytest.mark.parametrize("name", COMMANDS)
def test_both_ways_agree(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    _, parser = parser_for(name)
    if not hasattr(parser, "_read_plain"):
        pytest.skip("argparse's alone")
    names = [one for action in parser.full()._actions for one in action.option_strings]
    rng = random.Random(name)
    plain = 0
    for _ in range(LINES):
        words = [word for _ in range(rng.randrange(5)) for word in rng.choice([
            [rng.choice(names)], [rng.choice(names), rng.choice(VALUES)],
            [rng.choice(names) + "=" + rng.choice(VALUES)], [rng.choice(VALUES[:1] + VALUES[-2:])],
            [rng.choice(names), "x"], [rng.choice(names)[:-1]]])]
        values = parser._read_plain(words)
        if values is not None:
            plain += 1
            assert values == by_argparse(parser, words), words
    assert plain > 0 or any(not option[0].startswith("-") and about.get("nargs") != "+"
                            for option, about in parser.notes()), "none was plain"


@pytest.mark.parametrize("words, values", [
    (["u"], {"urls": ["u"]}),
    (["u", "-O", "-", "v", "-q"], {"urls": ["u", "v"], "output": "-", "quiet": True}),
    (["--header", "A: b", "u", "-H", "C: d"], {"urls": ["u"], "headers": ["A: b", "C: d"]}),
    (["--limit-rate=2k", "u", "--notbs"], {"limit_rate_bps": "2k", "no_source": "yes"}),
])
def test_plain_lines_of_get(words: List[str], values: Dict[str, Any]) -> None:
    _, parser = parser_for("get")
    found = parser._read_plain(words)
    assert found is not None and found.items() >= {**values}.items()
    assert vars(parser.parse(words)) == by_argparse(parser, words)


@pytest.mark.parametrize("words", [[], ["u", "--"], ["u", "-h"], ["u", "-Ox"], ["u", "-O"],
                                   ["u", "-O", "-x"], ["u", "--lim", "1"], ["u", "--quiet=x"]])
def test_what_isnt_plain_is_left_to_argparse(words: List[str]) -> None:
    _, parser = parser_for("get")
    assert parser._read_plain(words) is None


@pytest.mark.parametrize("name", COMMANDS)
def test_help_leaves_out_what_is_hidden(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    module, parser = parser_for(name)
    with pytest.raises(SystemExit):
        parser.parse(["--help"])
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: dfly {name} [-h]") and "SUPPRESS" not in shown
    words = set(re.split(r"[\s,\[\]]+", shown))
    hidden = [names for names, about in parser.notes() if about.get("help") is HIDDEN]
    assert (len(hidden) > 50) is (name == "get")
    assert not words & {one for names in hidden for one in names}
    assert all(one in words for names, about in parser.notes() if about.get("help") is not HIDDEN
               for one in names if one.startswith("-"))

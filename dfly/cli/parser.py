"""The parser of one command's options: argparse's, with UsageErrors and without abbreviations.

Loading and filling argparse costs a start more than most commands do, so the options are written
down first. A command line that is plain (options by their whole names, no value that looks like an
option) is read from those notes; any other, and each that is wrong or asks for help, is argparse's.
Both come to the same values wherever the first gives any: a test holds them to it.
"""
from __future__ import annotations

TYPE_CHECKING = False  # typing's own costs each start 2 ms
if TYPE_CHECKING:
    import argparse
    from typing import Any, Dict, List, Optional, Tuple


HIDDEN = "hidden"  # help of an option that --help leaves out


class Arguments:
    """What was parsed: an attribute for each option and argument, as argparse's Namespace."""

    def __init__(self, **values: Any) -> None:
        self.__dict__.update(values)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)

    def changed(self, **changes: Any) -> Arguments:
        """A copy with other values for some."""
        return Arguments(**{**vars(self), **changes})

    def __repr__(self) -> str:
        return f"Arguments({vars(self)!r})"


class CommandParser:
    """An abbreviation that works today would break the day a longer option is added; so none."""

    def __init__(self, prog: str, description: str) -> None:
        self._prog = prog
        self._description = description
        self._notes: List[Tuple[Tuple[str, ...], Dict[str, Any]]] = []
        self._bare: Dict[str, str] = {}
        self._dashed: List[str] = []

    def add_argument(self, *names: str, bare: Optional[str] = None, dashed: bool = False,
                     **about: Any) -> None:
        """As argparse's. `bare`: the value where the option is given without one; a value can then
        only follow behind =. `dashed`: a value may begin like -4, which else is an option."""
        if dashed:
            self._dashed += names
        if bare is not None:
            self._bare.update({name: f"{name}={bare}" for name in names})
        self._notes.append((names, about))

    def add_hidden(self, *names: str, dest: str, takes_value: bool) -> None:
        """An option that is known but not shown; its value is text, None where it isn't given."""
        if takes_value:
            self.add_argument(*names, dest=dest, help=HIDDEN)
        else:
            self.add_argument(*names, dest=dest, action="store_const", const="yes", help=HIDDEN)

    def notes(self) -> Tuple[Tuple[Tuple[str, ...], Dict[str, Any]], ...]:
        """(names, what argparse is told of it) of each option and argument, in their order;
        argparse adds -h and --help to them."""
        return tuple(self._notes)

    def parse(self, words: List[str]) -> Arguments:
        """UsageError; SystemExit after --help."""
        words = self._joined([self._bare.get(word, word) for word in words])
        values = self._read_plain(words)
        if values is None:
            only_shown = words in (["--help"], ["-h"])
            values = vars(self.full(only_shown=only_shown).parse_intermixed_args(words))
        return Arguments(**values)

    def _joined(self, words: List[str]) -> List[str]:
        """With what is dashed behind an = of its option."""
        joined: List[str] = []
        for word in words:
            if joined and joined[-1] in self._dashed and word[:1] == "-" and word[1:2].isdigit():
                word = f"{joined.pop()}={word}"
            joined.append(word)
        return joined

    def full(self, *, only_shown: bool = False) -> argparse.ArgumentParser:
        """argparse's own parser of these options, without those that --help leaves out where no
        more than that is wanted: it is there sooner by a twentieth."""
        import argparse

        from dfly.cli.fullparser import FullParser
        parser = FullParser(self._prog, self._description)
        for names, about in self._notes:
            if about.get("help") is HIDDEN:
                if only_shown:
                    continue
                about = {**about, "help": argparse.SUPPRESS}   # which it compares by identity
            parser.add_argument(*names, **about)
        return parser

    def _read_plain(self, words: List[str]) -> Optional[Dict[str, Any]]:
        """The values, or None for what isn't plain."""
        options: Dict[str, _Option] = {}
        values: Dict[str, Any] = {}
        place = ""
        for names, about in self._notes:
            option = _Option(names, about)
            values[option.dest] = option.default()
            if names[0].startswith("-"):
                options.update(dict.fromkeys(names, option))
            elif place or about.get("nargs") not in ("+", "*"):
                return None
            else:
                place = option.dest
        rest: List[str] = []
        coming = iter(words)
        for word in coming:
            if not word.startswith("-"):
                rest.append(word)
                continue
            name, equals, text = word.partition("=") if word.startswith("--") else (word, "", "")
            found = options.get(name)
            if found is None or not found.is_plain or (equals and (found.is_switch or not text)):
                return None
            if not found.is_switch and not equals:
                text = next(coming, "--")
            if text.startswith("-") and text != "-":
                return None
            found.take(values, text)
        if place:
            values[place] = rest
        return values if bool(rest) is bool(place) else None


class _Option:
    """One option or argument as its notes tell."""

    def __init__(self, names: Tuple[str, ...], about: Dict[str, Any]) -> None:
        long = [name for name in names if name.startswith("--")] or list(names)
        self.dest: str = about.get("dest") or long[0].lstrip("-").replace("-", "_")
        self._about = about
        self._action = about.get("action", "store")
        self.is_switch = self._action in ("store_true", "store_const")
        self.is_plain = (self._action in ("store", "append", "store_true", "store_const")
                         and not {"type", "choices", "nargs"} & set(about))

    def default(self) -> Any:
        return self._about.get("default", False if self._action == "store_true" else None)

    def take(self, values: Dict[str, Any], text: str) -> None:
        if self._action == "append":
            values[self.dest] = [*(values[self.dest] or []), text]
        elif self.is_switch:
            values[self.dest] = self._about.get("const", True)
        else:
            values[self.dest] = text

"""The scripts say what the parsers say, are whole in each shell, and complete there what they
should; texts that a shell could take for its own stay texts."""
from __future__ import annotations

import argparse
import os
import pty
import select
import shlex
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List, Set

import pytest

from dfly.cli import COMMANDS, completion, get, main, parser_for
from dfly.cli.completion import (
    ABOUT_DFLY,
    SHELLS,
    Word,
    arguments_of,
    bash_script,
    commands,
    fish_quoted,
    fish_script,
    options_of,
    quoted,
    values_of,
    words_of,
    zsh_script,
)

SHELL_ARGUMENTS = {"bash": ["--norc", "--noprofile"], "zsh": ["-f"], "fish": ["--no-config"]}
WAIT_S = 20.0
NASTY = """it's "50%" of `id` $(id) $HOME \\ [x]: {a,b} *? ~ #; & | > < ! (y)"""


def shell(name: str) -> str:
    if shutil.which(name) is None:
        pytest.skip(f"no {name} on this machine (Debian: apt-get install {name})")
    return name


# ------------------------------------------------------------------------------ the same data
@pytest.mark.parametrize("name", COMMANDS)
def test_words_are_those_of_the_parser(name: str) -> None:
    """Of argparse's own parser, which prints --help and which the pages are held to."""
    parser = parser_for(name)[1]
    words = words_of(parser)
    actions = [action for action in parser.full()._actions if action.help != argparse.SUPPRESS]
    assert [set(word.names) for word in words] == [set(action.option_strings)
                                                   for action in actions]
    formatter = argparse.HelpFormatter("")
    for word, action in zip(words, actions):
        assert word.takes_value == (action.nargs != 0), word.names
        assert word.choices == tuple(action.choices or ())
        if not isinstance(action, argparse._HelpAction):
            assert word.help == " ".join(formatter._expand_help(action).split())
            assert word.help, word.names
            assert word.metavar == (action.metavar or ""), word.names


@pytest.mark.parametrize("name", COMMANDS)
def test_values_of_options_are_offered(name: str) -> None:
    """Of each option by all its names, as the command's module lists them."""
    module, parser = parser_for(name)
    values = values_of(module)
    found = {one: word.choices for word in options_of(words_of(parser, values))
             for one in word.names if word.choices}
    assert {one: found[one] for one in values} == values
    assert all(word.kind == "choices" for word in words_of(parser, values) if word.choices)
    assert [repr(word) for word in commands()[name][1]] == [
        repr(word) for word in words_of(parser, values)]


OFFERED = [(option, value) for option, values in get.VALUES.items() for value in values]


@pytest.mark.parametrize("option, value", OFFERED)
def test_what_is_offered_is_taken(option: str, value: str, daemon: Any, tmp_path: Path,
                                  monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    daemon.events = [{"event": "failed", "exit_code": 8, "what": "asked", "hint": ""}]
    daemon.answers["POST", "/v1/look"] = (200, {})
    assert main(["get", "http://f/x", option, value]) in (0, 8)


@pytest.mark.parametrize("option, values", get.VALUES.items())
def test_what_is_taken_is_offered(option: str, values: Any, daemon: Any, tmp_path: Path,
                                  monkeypatch: pytest.MonkeyPatch,
                                  capsys: pytest.CaptureFixture[str]) -> None:
    """By what is said where it isn't one of them."""
    monkeypatch.chdir(tmp_path)
    assert main(["get", "http://f/x", option, "strange"]) == 2
    said = capsys.readouterr().err
    assert all(value in said for value in values) or option == "--method"


def test_all_commands_are_there() -> None:
    assert list(commands()) == [*COMMANDS, "help"]
    assert {name: summary for name, (summary, _) in commands().items() if name != "help"} == {
        name: command.summary for name, command in COMMANDS.items()}
    (argument,) = commands()["help"][1]
    assert argument.choices == tuple(COMMANDS)
    (argument,) = arguments_of(commands()["completion"][1])
    assert argument.choices == tuple(SHELLS)


@pytest.mark.parametrize("about, kind", [
    ({"metavar": "FILE"}, "files"), ({"metavar": "PATH"}, "files"), ({"metavar": "DIR"}, "folders"),
    ({"metavar": "URL"}, ""), ({"choices": ("a", "b")}, "choices"), ({}, ""),
    ({"metavar": "FILE..."}, "files"),
])
def test_kinds_of_values(about: Dict[str, Any], kind: str) -> None:
    assert Word(("--x",), about).kind == kind


def test_what_help_hides_stays_hidden() -> None:
    from dfly.cli.parser import HIDDEN, CommandParser
    parser = CommandParser("x", "")
    parser.add_argument("--told", help="100 %% so")
    parser.add_argument("--secret", help=HIDDEN)
    assert [(word.names, word.help) for word in words_of(parser)[1:]] == [(("--told",), "100 % so")]


# ------------------------------------------------------------------------------ whole scripts
@pytest.mark.parametrize("name", SHELLS)
def test_a_script_is_whole(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", name]) == 0
    script = tmp_path / "script"
    script.write_text(capsys.readouterr().out)
    assert script.read_text() == SHELLS[name]()
    done = subprocess.run([shell(name), *SHELL_ARGUMENTS[name], "-n", str(script)], text=True,
                          capture_output=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_no_such_shell(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "tcsh"]) == 2
    assert "invalid choice: 'tcsh'" in capsys.readouterr().err


@pytest.mark.parametrize("name, quote", [("bash", quoted), ("zsh", quoted), ("fish", fish_quoted)])
@pytest.mark.parametrize("text", [NASTY, "\\'", "'\\", "", "a\\", "-n"])
def test_what_is_quoted_is_one_word(name: str, quote: Any, text: str) -> None:
    done = subprocess.run([shell(name), *SHELL_ARGUMENTS[name], "-c",
                           f"printf '<%s>' {quote(text)}"], text=True, capture_output=True,
                          check=True)
    assert done.stdout == f"<{text}>"


# ------------------------------------------------------------------------------ bash
class Bash:
    """The script loaded into a bash that is told words, the last one under the cursor."""

    def __init__(self, script: Path, cwd: Path) -> None:
        self.script = script
        self.cwd = cwd

    def __call__(self, *words: str, kind: str = "9") -> List[str]:
        program = ("source \"$0\"; COMP_WORDS=(dfly \"$@\"); COMP_CWORD=$#; COMP_TYPE=$KIND;"
                   "word=${@: -1}; [[ $word == = ]] && word=;"
                   '_dfly dfly "$word" "${COMP_WORDS[COMP_CWORD - 1]}" 2>&1;'
                   "(( ${#COMPREPLY[@]} )) && printf '%s\\n' \"${COMPREPLY[@]}\"")
        done = subprocess.run([shell("bash"), *SHELL_ARGUMENTS["bash"], "-c", program,
                               str(self.script), *words], cwd=self.cwd, text=True, check=False,
                              capture_output=True, env={**os.environ, "KIND": kind})
        assert done.stderr == ""
        return done.stdout.splitlines()


def make_folder(above: Path) -> Path:
    """A folder with two files and a folder."""
    here = above / "here"
    (here / "sub").mkdir(parents=True)
    (here / "a file").write_bytes(b"")
    (here / "other").write_bytes(b"")
    return here


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path)


@pytest.fixture
def bash(tmp_path: Path, folder: Path) -> Bash:
    (tmp_path / "script").write_text(bash_script())
    return Bash(tmp_path / "script", folder)


def names(words: Any) -> Set[str]:
    return {name for word in words for name in word.names}


@pytest.mark.parametrize("name", COMMANDS)
def test_bash_offers_exactly_the_options(bash: Bash, name: str) -> None:
    assert set(bash(name, "-")) == names(words_of(parser_for(name)[1]))


def test_bash_offers_commands(bash: Bash) -> None:
    assert set(bash("")) == {*COMMANDS, "help", *names(ABOUT_DFLY)}
    assert bash("sta") == ["status"]
    assert bash("help", "sta") == ["status"]
    assert bash("completion", "") == list(SHELLS)
    assert bash("nothing", "") == bash("nothing", "-") == []


def test_bash_offers_values(bash: Bash) -> None:
    assert set(bash("get", "-O", "")) == {"a file", "other", "sub"}
    assert bash("get", "--output-document", "=", "o") == ["other"]
    assert set(bash("get", "--output-document", "=")) == {"a file", "other", "sub"}
    assert bash("get", "-P", "") == ["sub"]
    assert bash("get", "--tag", "") == bash("get", "http", ":", "//f/x", "") == []
    assert bash("get", "-q", "--js") == ["--json"]
    assert bash("get", "--progress", "") == bash("get", "--progress", "=") == [
        "bar", "dot", "none", "json"]
    assert bash("get", "--secure-protocol", "=", "TLSv1_3") == ["TLSv1_3"]


def test_bash_knows_the_first_argument_from_the_next(bash: Bash) -> None:
    actions = ["ls", "verify", "rm"]
    assert set(actions) <= set(bash("cache", ""))
    assert "rm" in bash("cache", "--socket", "x", "--json", "r")
    assert "rm" in bash("cache", "--socket", "=", "x", "r")
    assert bash("cache", "rm", "r") == []
    assert bash("help", "get", "") == []


def test_bash_tells_what_words_are_only_in_a_list(bash: Bash) -> None:
    summary = COMMANDS["status"].summary
    assert any(line.startswith("status") and line.endswith(f"({summary})")
               for line in bash("s", kind="63"))
    assert bash("sta", kind="63") == ["status"]
    assert all(" " not in line for line in bash("s"))


# ------------------------------------------------------------------------------ fish
@pytest.fixture
def fish(tmp_path: Path, folder: Path) -> Any:
    (tmp_path / "script").write_text(fish_script())

    def complete(line: str) -> Dict[str, str]:
        done = subprocess.run([shell("fish"), *SHELL_ARGUMENTS["fish"], "-c",
                               'source $argv[1]; complete -C $argv[2]',
                               str(tmp_path / "script"), line], cwd=folder, text=True,
                              capture_output=True, check=True,
                              env={**os.environ, "HOME": str(tmp_path)})
        assert done.stderr == ""
        return dict(line.partition("\t")[::2] for line in done.stdout.splitlines())
    return complete


@pytest.mark.parametrize("name", COMMANDS)
def test_fish_offers_exactly_the_options_with_their_texts(fish: Any, name: str) -> None:
    options = options_of(words_of(parser_for(name)[1]))
    texts = {one: option.help for option in options for one in option.names}
    found = {**fish(f"dfly {name} -"), **fish(f"dfly {name} --")}
    found = {one.rstrip("="): text for one, text in found.items()}
    assert set(found) == set(texts)
    assert all(texts[one].startswith(text.rstrip("\u2026")) and text
               for one, text in found.items())


def test_fish_offers_commands_and_values(fish: Any) -> None:
    assert set(fish("dfly ")) == {*COMMANDS, "help"}
    assert fish("dfly sta") == {"status": COMMANDS["status"].summary}
    assert set(fish("dfly help s")) == {name for name in COMMANDS if name.startswith("s")}
    assert set(fish("dfly completion ")) == set(SHELLS)
    assert {"ls", "verify", "rm"} <= set(fish("dfly cache "))
    assert "ls" not in fish("dfly cache rm ")
    assert set(fish("dfly get -O ")) == {"a file", "other", "sub/"}
    assert set(fish("dfly get --output-document=o")) == {"--output-document=other"}
    assert set(fish("dfly get -P ")) == {"sub/"}
    assert set(fish("dfly get --progress ")) == {"bar", "dot", "none", "json"}
    assert set(fish("dfly get --method=")) == {"--method=GET", "--method=HEAD"}
    assert fish("dfly get --tag ") == fish("dfly get http") == {}


# ------------------------------------------------------------------------------ zsh
class Typing:
    """A shell at a terminal: what is typed, and what it shows then."""

    def __init__(self, argv: List[str], cwd: Path) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.chdir(cwd)
            os.execvpe(argv[0], argv, {"PATH": os.environ["PATH"], "TERM": "dumb",
                                       "HOME": str(cwd), "COLUMNS": "200", "LINES": "500",
                                       "LC_ALL": "C.UTF-8"})

    def type(self, text: str, until: str) -> str:
        """What came up to `until`."""
        os.write(self.fd, text.encode())
        shown, deadline = b"", time.monotonic() + WAIT_S
        while until.encode() not in shown:
            assert time.monotonic() < deadline, f"no {until!r} after {text!r}: {shown!r}"
            if select.select([self.fd], [], [], 0.2)[0]:
                shown += os.read(self.fd, 65536)
        return shown.decode(errors="replace")

    def end(self) -> None:
        os.close(self.fd)
        os.waitpid(self.pid, 0)


def typing(tmp_path: Path, folder: Path) -> Iterator[Typing]:
    """A zsh with the script loaded, in `folder`."""
    (tmp_path / "script").write_text(zsh_script())
    zsh = Typing([shell("zsh"), *SHELL_ARGUMENTS["zsh"], "-i"], folder)
    zsh.type(f"autoload -Uz compinit; compinit -D -u; source {tmp_path}/script; PS1='<re''ady>'\n",
             "<ready>")
    yield zsh
    zsh.end()


@pytest.fixture
def zsh(tmp_path: Path, folder: Path) -> Iterator[Typing]:
    yield from typing(tmp_path, folder)


@pytest.fixture(scope="module")
def one_zsh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Typing]:
    """One for many lines: its start costs more than they do."""
    folder = tmp_path_factory.mktemp("zsh")
    yield from typing(folder, make_folder(folder))


@pytest.mark.parametrize("line, found", [
    ("dfly sta", "dfly status "), ("dfly help sta", "dfly help status "),
    ("dfly completion z", "dfly completion zsh "), ("dfly cache ver", "dfly cache verify "),
    ("dfly get -q --js", "dfly get -q --json "), ("dfly get -O ot", "dfly get -O other "),
    ("dfly get --output-document=ot", "dfly get --output-document=other "),
    ("dfly get --progress j", "dfly get --progress json "),
    ("dfly get --restrict-file-names=asc", "dfly get --restrict-file-names=ascii "),
    ("dfly get -P ", "dfly get -P sub/"), ("dfly get -O a", "dfly get -O a\\ file "),
])
def test_zsh_completes(one_zsh: Typing, line: str, found: str) -> None:
    assert found in one_zsh.type(f"\x15{line}\t", found)  # ^U: away with the line before


@pytest.mark.parametrize("name", COMMANDS)
def test_zsh_takes_each_specification(tmp_path: Path, name: str) -> None:
    """What _arguments is given, read back: each name with its text, each argument."""
    script = tmp_path / "script"
    script.write_text(zsh_script())
    program = (f"compdef() {{ :; }}; source {shlex.quote(str(script))}\n"
               "_arguments() { print -rN -- \"$@\"; }; _describe() { :; }\n"
               f"words=(dfly {name} -); CURRENT=3; _dfly")
    done = subprocess.run([shell("zsh"), *SHELL_ARGUMENTS["zsh"], "-c", program], text=True,
                          capture_output=True, check=True)
    specs = [spec for spec in done.stdout.split("\0") if spec.strip()]
    words = words_of(parser_for(name)[1])
    assert len(specs) == len(arguments_of(words)) + sum(len(word.names) for word in words)
    for option in options_of(words):
        for one in option.names:
            (spec,) = [spec for spec in specs
                       if spec.partition("[")[0].rpartition(")")[2].lstrip("*").rstrip("+=") == one]
            text = spec.partition("[")[2].partition("]:")[0] if option.takes_value \
                else spec.partition("[")[2][:-1]
            assert text.replace("\\", "") == option.help.replace("\\", "")


def test_zsh_lists_texts(one_zsh: Typing) -> None:
    told = f"-- {COMMANDS['status'].summary}"
    assert told in one_zsh.type("\x15dfly s\t", told)
    (option,) = [word for word in words_of(parser_for("get")[1]) if "--tag" in word.names]
    assert option.help in one_zsh.type("\x15dfly get --t\t", option.help)


# ------------------------------------------------------------------------------ hostile texts
@pytest.fixture
def nasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """One command whose texts are what shells live on."""
    words = [Word(("-x", "--ex"), {"help": NASTY, "metavar": NASTY}),
             Word(("--ey",), {"action": "store_true", "help": NASTY})]
    monkeypatch.setattr(completion, "commands", lambda: {"go": (NASTY, words)})


def test_texts_stay_texts_in_bash(nasty: None, tmp_path: Path, folder: Path) -> None:
    (tmp_path / "script").write_text(bash_script())
    bash = Bash(tmp_path / "script", folder)
    assert bash("go", "-") == ["-x", "--ex", "--ey"]
    assert all(line.endswith(f"({NASTY})") or line.endswith("...)")
               for line in bash("go", "-", kind="63"))


def test_texts_stay_texts_in_fish(nasty: None, fish: Any, tmp_path: Path) -> None:
    assert fish("dfly go --ey") == {"--ey": NASTY}
    assert fish("dfly g") == {"go": NASTY}


def test_texts_stay_texts_in_zsh(nasty: None, zsh: Typing) -> None:
    assert NASTY in zsh.type("dfly go --e\t", NASTY)
    assert "dfly go --ey " in zsh.type("\x15dfly go --ey\t", "dfly go --ey ")

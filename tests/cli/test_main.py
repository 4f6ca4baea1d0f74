"""The command line as such: the table, help, usage errors, and what becomes of exceptions."""
from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, List, Optional

import pytest

import dfly.cli
from dfly import __version__
from dfly.cli import COMMANDS, main
from dfly.cli import status as status_command
from dfly.errors import ALL, DflyError, error_from_wire

ROOT = Path(__file__).resolve().parents[2]


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"dfly {__version__}\n"
    for arguments in (["--help"], ["-h"], ["help"]):
        assert main(arguments) == 0
        said = capsys.readouterr().out
        assert all(f"\n  {name} " in said and command.summary in said
                   for name, command in COMMANDS.items())
    assert main(["help", "get"]) == 0
    assert main(["get", "--help"]) == 0
    first, second = capsys.readouterr().out.split("usage: dfly get")[1:]
    assert first == second and "--limit-rate" in first


@pytest.mark.parametrize("arguments, words", [
    (["gte"], "no command 'gte': did you mean 'get'?"),
    (["\x1b[2J"], "no command"),
    (["--verbose"], "no option --verbose"),
    (["status", "extra"], "unrecognized arguments: extra: see dfly help status"),
    (["cache"], "the following arguments are required"),
    (["cache", "rm"], "cache rm needs a TASK, or --all"),
    (["help", "nothing"], "no command 'nothing'"),
    (["demo", "--hosts", "0"], "--hosts: must be at least 1"),
    (["demo", "--hosts", "100000"], "dfly simulate does thousands"),
    (["demo", "--size", "0"], "an empty file shows nothing"),
    (["status", "--manager", "a:b:c:d/"], "not an address"),
    (["demo", "--hosts", "x"], "--hosts: not a whole number"),
])
def test_wrong_usage_is_one_line(capsys: pytest.CaptureFixture[str], arguments: List[str],
                                 words: str) -> None:
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert words in said.err and said.err.startswith("dfly: ") and said.err.count("\n") == 1
    assert said.out == "" and "\x1b" not in said.err


def test_a_manager_that_isnt_there_is_told_with_a_hint(
        capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        assert main(["status", "--manager", f"127.0.0.1:{nobody.getsockname()[1]}"]) == 4
    assert "is that the address of a manager, and does it run?" in capsys.readouterr().err


@pytest.mark.parametrize("role", ["serve", "peer", "config"])
def test_a_name_that_is_no_address_here(role: str, short_path: Path) -> None:
    more = [] if role == "config" else ["--store", str(short_path / "store")]
    more += ["--socket", str(short_path / "s")] if role == "peer" else []
    done = subprocess.run([sys.executable, "-m", "dfly", role, "--listen", "no such.name", *more],
                          cwd=ROOT, capture_output=True, text=True, check=False, timeout=30)
    said = done.stderr.splitlines()[-1]
    assert done.returncode == 4 and said.endswith(
        "no such host name: give an address of this host, or 0.0.0.0 for all"), done.stderr


def test_a_name_that_the_locale_cannot_say_is_escaped(daemon: Any) -> None:
    daemon.answers["GET", "/v1/status"] = (200, {"role": "peer", "name": "h\u00f6st"})
    done = subprocess.run([sys.executable, "-m", "dfly", "status"], cwd=ROOT, check=False,
                          capture_output=True, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0 and b"h\\xf6st" in done.stdout, done.stderr


def test_no_command_prints_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "  get " in capsys.readouterr().err


@pytest.mark.parametrize("kind", ALL)
def test_each_error_has_its_code_and_two_parts(
        monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
        kind: "type[DflyError]") -> None:
    def fail(args: object) -> int:
        raise error_from_wire(kind.exit_code, "it broke", "mend it")

    monkeypatch.setattr(status_command, "run", fail)
    assert main(["status"]) == kind.exit_code
    assert capsys.readouterr().err == "dfly: it broke: mend it\n"


def test_interrupts_have_the_shells_code(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(args: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(status_command, "run", interrupt)
    assert main(["status"]) == dfly.cli.INTERRUPTED


@pytest.mark.parametrize("first, code", [
    (KeyboardInterrupt(), 130), (KeyboardInterrupt(15), 143), (ValueError(), None)])
def test_a_second_interrupt_on_the_way_out_of_the_first(
        first: BaseException, code: Optional[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """threading.Condition, left by two exceptions, lets go of a lock that it doesn't have."""
    def interrupt(args: object) -> int:
        try:
            raise first
        finally:
            threading.Lock().release()

    monkeypatch.setattr(status_command, "run", interrupt)
    if code is not None:
        assert main(["status"]) == code
    else:
        with pytest.raises(RuntimeError):
            main(["status"])


def run_with(cli: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    """dfly, started with another dfly.cli."""
    (folder / "cli").mkdir()
    (folder / "cli" / "__init__.py").write_text(cli)
    start = ("import dfly, runpy, sys; dfly.__path__.insert(0, sys.argv[1]); "
             "runpy.run_module('dfly', run_name='__main__')")
    return subprocess.run([sys.executable, "-c", start, str(folder)], check=False, text=True,
                          capture_output=True, cwd=Path(dfly.cli.__file__).parents[2])


@pytest.mark.parametrize("broken", [
    "def main(): raise KeyboardInterrupt", "raise KeyboardInterrupt"])
def test_an_interrupt_while_it_starts_is_no_traceback(broken: str, tmp_path: Path) -> None:
    """In main's last words, or while dfly.cli is loaded."""
    done = run_with(broken, tmp_path)
    assert (done.returncode, done.stderr) == (130, "")


@pytest.mark.parametrize("imported, output", [("sys", "said\n"), ("asyncio", "said\nended\n")])
def test_only_roles_wait_for_python_to_end(imported: str, output: str, tmp_path: Path) -> None:
    done = run_with(f"""
import atexit, {imported}
def main():
    atexit.register(print, "ended")
    print("said")
    return 7
""", tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (7, output, "")


def test_an_output_that_nobody_reads_is_silent() -> None:
    read_fd, write_fd = os.pipe()
    os.close(read_fd)
    process = subprocess.Popen([sys.executable, "-m", "dfly", "--help"], cwd=ROOT,
                               stdout=write_fd, stderr=subprocess.PIPE)
    os.close(write_fd)
    _, said = process.communicate(timeout=20)
    assert (process.returncode, said) == (141, b"")


def test_an_output_that_takes_nothing_is_a_file_error() -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run([sys.executable, "-m", "dfly", "--help"], cwd=ROOT, stdout=full,
                              stderr=subprocess.PIPE, check=False)
    assert done.returncode == 3 and done.stderr.count(b"\n") == 1
    assert b"standard output: No space left on device" in done.stderr


@pytest.mark.parametrize("closed, code, said", [
    (">&-", 3, "dfly: standard output: Bad file descriptor\n"),
    ("2>&-", 0, ""),
    ("<&- 2>&-", 0, ""),
])
def test_a_closed_stream_is_no_traceback(closed: str, code: int, said: str) -> None:
    done = subprocess.run(["sh", "-c", f'exec "$0" -m dfly --version {closed}', sys.executable],
                          cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (code, said)


@pytest.mark.parametrize("words, code", [
    ("nosuch", 2), ("--nosuch", 2), ("", 2), ("get --nosuch", 2),
    ("get --no-start http://h/", 4)])
@pytest.mark.parametrize("stderr", ["2>/dev/full", "2>&-", "2</dev/null"])
def test_the_code_tells_where_standard_error_takes_nothing(
        words: str, code: int, stderr: str, short_path: Path) -> None:
    """Full, closed, and open for reading (what Python takes for a good one)."""
    done = subprocess.run(["sh", "-c", f'exec "$0" -m dfly {words} {stderr}', sys.executable],
                          cwd=ROOT, capture_output=True, text=True, check=False,
                          env={**os.environ, "DFLY_SOCKET": str(short_path / "s")})
    assert (done.returncode, done.stdout, done.stderr) == (code, "", "")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_help_that_can_not_be_written_is_an_error(name: str) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run([sys.executable, "-m", "dfly", name, "--help"], cwd=ROOT, text=True,
                              stdout=full, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (
        3, "dfly: standard output: No space left on device\n")


def test_the_first_failure_gives_the_code(short_path: Path) -> None:
    """Also where standard output, at the end, takes nothing of what it was told before."""
    start = ("import sys\nfrom dfly import cli\nfrom dfly.errors import DigestMismatch\n"
             "def run(args):\n    print('one is bad')\n    raise DigestMismatch('bad')\n"
             "from dfly.cli import status\nstatus.run = run\nsys.exit(cli.main(['status']))")
    with open("/dev/full", "wb") as full:
        done = subprocess.run([sys.executable, "-c", start], cwd=ROOT, text=True, stdout=full,
                              stderr=subprocess.PIPE, check=False,
                              env={**os.environ, "PYTHONUNBUFFERED": ""})
    assert (done.returncode, done.stderr) == (
        9, "dfly: bad\ndfly: standard output: No space left on device\n")


@pytest.mark.parametrize("flush, code", [
    ("raise KeyboardInterrupt", 130), ("raise BrokenPipeError", 7), ("pass", 7)])
def test_what_the_end_meets_is_no_traceback(flush: str, code: int, tmp_path: Path) -> None:
    done = run_with(f"""
import sys
class Stream:
    def flush(self):
        {flush}
def main():
    sys.stdout, sys.stdin = Stream(), None
    return 7
""", tmp_path)
    assert (done.returncode, done.stderr) == (code, "")


CALLBACK = """
import os, signal, sys, weakref
class Lock: pass
def interrupt_in_a_callback():
    lock = Lock()
    kept = weakref.ref(lock, lambda _: os.kill(os.getpid(), signal.SIGINT) or list(range(1000)))
    del lock   # as the import system does; what is raised in the callback goes nowhere
"""


@pytest.mark.parametrize("where, code, said", [
    ("with Loading():\n    interrupt_in_a_callback()", 130, ""),
    ("with Loading():\n    pass\nos.kill(os.getpid(), signal.SIGINT)", -2, "KeyboardInterrupt\n"),
    ("signal.signal(signal.SIGINT, signal.SIG_IGN)\nwith Loading():\n"
     "    interrupt_in_a_callback()", 0, ""),
    ("signal.signal(signal.SIGINT, lambda *_: print('heard', file=sys.stderr))\n"
     "with Loading():\n    interrupt_in_a_callback()", 0, "heard\n"),
    ("import threading\ndef load():\n    with Loading():\n        pass\n"
     "one = threading.Thread(target=load)\none.start()\none.join()", 0, "")])
def test_an_interrupt_while_modules_are_loaded_is_never_lost(
        where: str, code: int, said: str) -> None:
    done = subprocess.run([sys.executable, "-c",
                           f"{CALLBACK}\nfrom dfly.cli import Loading\n{where}"], check=False,
                          cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == code
    assert done.stderr.endswith(said) and bool(done.stderr) is bool(said)


def test_an_interrupt_before_main_is_never_lost(tmp_path: Path) -> None:
    done = run_with(CALLBACK + "interrupt_in_a_callback()\ndef main(): return 7\n", tmp_path)
    assert (done.returncode, done.stderr) == (130, "")


def test_who_started_it_may_have_interrupts_ignored(tmp_path: Path) -> None:
    """As a shell does with what it runs in the background."""
    done = subprocess.run(
        ["sh", "-c", 'trap "" INT; exec "$0" -c "$1"', sys.executable,
         "import os, signal, sys; sys.argv = ['dfly', '--version']\nfrom dfly import cli\n"
         "code = cli.main()\nos.kill(os.getpid(), signal.SIGINT); sys.exit(code)"],
        check=False, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")

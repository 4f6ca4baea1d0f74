"""Where users and passwords come from, and what the programs that dfly takes after make of it."""
from __future__ import annotations

import base64
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path
from typing import List, Optional, Tuple

import pytest

from dfly.cli.logins import ask_login, netrc_login, password_from_file
from dfly.errors import UsageError
from tests.support import SourceServer


def login(tmp_path: Path, text: str, user: Optional[str] = None,
          url: str = "http://h/f") -> Optional[Tuple[str, str]]:
    file = tmp_path / "netrc"
    file.write_text(text)
    return netrc_login(url, str(file), user)


@pytest.mark.parametrize("text, found", [
    ("machine h login u password p", ("u", "p")),
    ("machine\nh\n\tlogin u\n\tpassword\n p\n", ("u", "p")),
    ("machine H login u password p\r\n", ("u", "p")),
    ("# all\nmachine h login u # who\n password p # secret\n", ("u", "p")),
    ('machine h login "a b" password "x\\"y #z"', ("a b", 'x"y #z')),
    ("machine h login u password #p", ("u", "#p")),
    ("machine h login u account x password machine", ("u", "machine")),
    ("machine x login a password b\nmachine h login u password p", ("u", "p")),
    ("machine h login u password p\nmachine h login v password q", ("u", "p")),
    ("default login d password q", ("d", "q")),
    ("default login d password q\nmachine h login u password p", ("u", "p")),
    ("machine h login u\ndefault login d password q", ("d", "q")),
    ("macdef init\ncd /pub\nmachine h login x password y\n\nmachine h login u password p",
     ("u", "p")),
    ("machine h password p", ("", "p")),
    ("machine h login login # who\n password p", ("login", "p")),
    ('machine h login u password "p', ("u", "p")),
    ("machine sub.h login u password p", None),
    ("machine h login u", None),
    ("", None),
])
def test_what_a_netrc_says(text: str, found: Optional[Tuple[str, str]], tmp_path: Path) -> None:
    assert login(tmp_path, text) == found


def test_an_entry_of_this_user(tmp_path: Path) -> None:
    text = "machine h login u password p\nmachine h login v password q\ndefault login w password r"
    assert login(tmp_path, text, "v") == ("v", "q")
    assert login(tmp_path, text, "w") == ("w", "r")
    assert login(tmp_path, text, "x") is None


@pytest.mark.parametrize("text, line, found", [
    ("machine h login u\npassword p secret", 2, ("u", "p")), ("hunter2", 1, None),
    ("machine h login u password p\nmachine", 2, ("u", "p")), ("\n\nmachine h login", 3, None),
    ("login u password p", 1, None), ("machine h login u password", 1, None),
    ("machine h port 80 login u\npassword p\nhunter2 secret\n", 1, ("u", "p")),
    ("machine x login a b\nmachine h login u password p", 1, ("u", "p"))])
def test_what_a_netrc_has_no_place_for_is_told_and_passed_over(
        text: str, line: int, found: Optional[Tuple[str, str]], tmp_path: Path) -> None:
    file = tmp_path / "netrc"
    file.write_text(text)
    file.chmod(0o600)
    told: List[str] = []
    assert netrc_login("http://h/f", str(file), warn=told.append) == found
    assert len(told) == 1 and f"netrc:{line}: " in told[0]
    assert "secret" not in told[0] and "hunter2" not in told[0]


def test_a_netrc_that_can_not_be_read_costs_no_download(tmp_path: Path) -> None:
    """A folder, what is far too long, a link in circles; a FIFO that nobody writes to is empty."""
    told: List[str] = []
    (tmp_path / "folder").mkdir()
    (tmp_path / "long").write_text("# " + "x" * (1 << 20))
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    for name in ("folder", "long", "circle"):
        assert netrc_login("http://h/", str(tmp_path / name), warn=told.append) is None
    assert len(told) == 2 and all("going on without it" in line for line in told)
    os.mkfifo(tmp_path / "fifo")
    assert netrc_login("http://h/", str(tmp_path / "fifo"), warn=told.append) is None
    assert len(told) == 2


def test_a_netrc_by_a_pipe(tmp_path: Path) -> None:
    """NETRC=<(pass show netrc), and its program takes a moment."""
    read_fd, write_fd = os.pipe()
    writer = subprocess.Popen(["sh", "-c", "sleep 0.2; echo machine h login u password p"],
                              stdout=write_fd)
    os.close(write_fd)
    told: List[str] = []
    try:
        assert netrc_login("http://h/", f"/dev/fd/{read_fd}", warn=told.append) == ("u", "p")
    finally:
        os.close(read_fd)
        writer.wait()
    assert told == []


def test_which_file_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("NETRC", raising=False)
    assert netrc_login("http://h/") is None
    (tmp_path / ".netrc").write_text("machine h login home password p")
    assert netrc_login("http://h/") == ("home", "p")
    (tmp_path / "other").write_text("machine h login other password p")
    monkeypatch.setenv("NETRC", str(tmp_path / "other"))
    assert netrc_login("http://h/") == ("other", "p")
    monkeypatch.setenv("NETRC", str(tmp_path / "gone"))
    assert netrc_login("http://h/") is None


def test_a_netrc_that_others_may_read_is_told_of_if_it_is_used(tmp_path: Path) -> None:
    file = tmp_path / "netrc"
    told: List[str] = []
    file.write_text("machine h login u password p")
    file.chmod(0o644)
    netrc_login("http://other/", str(file), warn=told.append)
    assert told == []
    netrc_login("http://h/", str(file), warn=told.append)
    assert len(told) == 1 and "chmod 600" in told[0]
    file.chmod(0o600)
    netrc_login("http://h/", str(file), warn=told.append)
    assert len(told) == 1


@pytest.mark.skipif(shutil.which("wget") is None, reason="needs wget")
@pytest.mark.parametrize("text", [
    "machine 127.0.0.1 login u password p",
    'machine 127.0.0.1 login "u v" password "x\\"y"',
    "machine 127.0.0.1 login u password a\\\\b\\c",
    "# first\nmachine 127.0.0.1\n login u # c\n password p\n",
    "machine 127.0.0.1 login u password p\nmachine 127.0.0.1 login v password q",
    "macdef m\nx\n\nmachine 127.0.0.1 login u password p",
])
def test_wget_reads_the_same(text: str, tmp_path: Path) -> None:
    (tmp_path / ".netrc").write_text(text)
    with SourceServer() as source:
        url = source.add("/f", b"x", headers=(("WWW-Authenticate", 'Basic realm="x"'),),
                         authorization="never")
        subprocess.run(["wget", "-q", "-O", "/dev/null", url], timeout=60, check=False,
                       env={**os.environ, "HOME": str(tmp_path)})
        sent = [exchange.header("authorization") for exchange in source.requests("/f")]
    assert netrc_login(url, str(tmp_path / ".netrc")) == tuple(
        base64.b64decode(sent[-1].split()[1]).decode().split(":", 1))


def test_a_password_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_bytes("p\u00e4ss word \r\nmore".encode())
    assert password_from_file(str(file)) == "p\u00e4ss word "
    for content in (b"", b"\npassword", b"\xff"):
        file.write_bytes(content)
        with pytest.raises(UsageError):
            password_from_file(str(file))
    with pytest.raises(UsageError, match="longer than"):
        password_from_file("/dev/zero")


def program(tmp_path: Path, text: str) -> str:
    file = tmp_path / "ask"
    file.write_text(f"#!/bin/sh\necho \"$1\" >> {tmp_path}/asked\n{text}\n")
    file.chmod(0o755)
    return str(file)


def test_asking_by_a_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ask = program(tmp_path, "case $1 in User*) echo bob;; *) echo 'a b'; echo c;; esac")
    assert ask_login("https://h:1/f", ask) == ("bob", "a b")
    assert ask_login("https://h/f", ask, "eve") == ("eve", "a b")
    assert (tmp_path / "asked").read_text().splitlines() == [
        "Username for 'https://h': ", "Password for 'https://bob@h': ",
        "Password for 'https://eve@h': "]
    monkeypatch.delenv("WGET_ASKPASS", raising=False)
    monkeypatch.setenv("SSH_ASKPASS", ask)
    assert ask_login("https://h/f", user="eve") == ("eve", "a b")
    monkeypatch.setenv("WGET_ASKPASS", "/nonexistent/program")
    with pytest.raises(UsageError, match="can't ask by /nonexistent/program"):
        ask_login("https://h/f")
    monkeypatch.delenv("WGET_ASKPASS")
    monkeypatch.delenv("SSH_ASKPASS")
    with pytest.raises(UsageError, match="needs a command"):
        ask_login("https://h/f")


@pytest.mark.parametrize("text", ["exit 1", "echo x; exit 3", "true", "echo", "yes x | tr -d '\\n'",
                                  "printf '\\377\\n'"])
def test_a_program_that_gives_no_answer(text: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        ask_login("http://h/f", program(tmp_path, text), "u")


ROOT = Path(__file__).resolve().parents[2]
ASK = """
import os, sys
from dfly.cli.logins import ask_password
from dfly.errors import UsageError
if os.isatty(0):
    os.open(os.ttyname(0), os.O_RDWR)   # it becomes this session's terminal
try:
    print("GOT", ask_password("bob\\x1b"))
except UsageError as error:
    print(error)
"""


def test_asking_without_a_terminal() -> None:
    done = subprocess.run([sys.executable, "-c", ASK], text=True, capture_output=True, cwd=ROOT,
                          start_new_session=True, stdin=subprocess.DEVNULL, check=True, timeout=60)
    assert "no terminal" in done.stdout


def test_asking_on_the_terminal() -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen([sys.executable, "-c", ASK], stdin=theirs, stdout=subprocess.PIPE,
                          start_new_session=True, cwd=ROOT, text=True) as process:
        os.close(theirs)
        said = b""
        while b": " not in said:
            said += os.read(ours, 1000)
        os.write(ours, b"open sesame\n")
        assert process.communicate(timeout=60)[0] == "GOT open sesame\n"
    os.close(ours)
    assert said == b"Password for user 'bob\\\\x1b': "

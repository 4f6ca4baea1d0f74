"""Real processes of the built dist/dfly, for system tests and benchmarks.

A Cluster starts roles (ready when they say so on their pipe, never by waiting), runs `dfly get`
and ends everything it started. Where a test gives it a star of network namespaces
(`star_module()`), each role runs in the namespace of the host that it names.
"""
from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

from dfly.cli.ready import wait_ready

REPO = Path(__file__).resolve().parent.parent
DFLY = REPO / "dist" / "dfly"
# The system's Python, where it's new enough: what hosts have, and quicker to start than others.
PYTHON = os.environ.get("DFLY_PYTHON") or sys.executable
START_S = 60.0
END_S = 10.0


def build() -> Path:
    """Build dist/dfly from this tree; the executable."""
    subprocess.run([sys.executable, str(REPO / "build.py")], check=True, stdout=subprocess.DEVNULL,
                   cwd=REPO)
    return DFLY


def testbed() -> Path:
    """Where the testbed lies, or would."""
    return Path(os.environ.get("DFLY_TESTBED", str(REPO.parent / "shared" / "testbed")))


def star_module() -> Any:
    """The module that makes stars of network namespaces, or None where it isn't there."""
    folder = testbed()
    if not (folder / "netns_star.py").is_file():
        return None
    sys.path.insert(0, str(folder))
    try:
        import netns_star  # type: ignore[import-not-found]
    finally:
        sys.path.remove(str(folder))
    return netns_star


def star_missing() -> str:
    """Why network tests can't run here; '' if they can."""
    if os.geteuid():
        return "network namespaces need root"
    if star_module() is None:
        return "the testbed isn't beside this checkout (DFLY_TESTBED names another place)"
    return ""


@dataclass
class Role:
    """One running role. `where`: what it said when it was ready."""

    name: str
    process: "subprocess.Popen[bytes]"
    where: str
    log: Path
    folder: Path

    @property
    def port(self) -> int:
        return int(self.where.rpartition(":")[2])

    @property
    def socket(self) -> str:
        return str(self.folder / "s")

    @property
    def store(self) -> Path:
        return self.folder / "store"

    def kill(self) -> None:
        """kill -9, as a crash would."""
        self.process.kill()
        self.process.wait(END_S)

    def text(self) -> str:
        """The role's log so far."""
        return self.log.read_text("utf-8", "replace")


@dataclass
class Got:
    """What one `dfly get` came to."""

    code: int
    out: bytes
    err: str

    @property
    def events(self) -> List[Dict[str, Any]]:
        """With --json: one event a line."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def last(self) -> Dict[str, Any]:
        return self.events[-1]


@dataclass
class Cluster:
    """Roles in `folder`; `star` = hosts in namespaces (host 0 is the source)."""

    folder: Path
    star: Optional[Any] = None
    program: Sequence[str] = (PYTHON, str(DFLY))
    roles: List[Role] = field(default_factory=list)
    others: "List[subprocess.Popen[bytes]]" = field(default_factory=list)

    def __enter__(self) -> Cluster:
        (self.folder / "empty.conf").touch()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # ------------------------------------------------------------------------------- roles
    def config(self, *flags: str, host: int = 0, name: str = "config") -> Role:
        return self._start("config", name, host, [*self._common(host), *flags])

    def manager(self, *flags: str, host: int = 0, name: str = "manager", port: int = 0) -> Role:
        folder = self._folder(name)
        return self._start("serve", name, host, [
            *self._common(host, port), "--name", name, "--store", str(folder / "store"), *flags])

    def peer(self, *flags: str, host: int = 0, name: str = "peer") -> Role:
        folder = self._folder(name)
        return self._start("peer", name, host, [
            *self._common(host), "--name", name, "--store", str(folder / "store"),
            "--socket", str(folder / "s"), *flags])

    def address(self, host: int) -> str:
        return str(self.star.ip(host)) if self.star is not None else "127.0.0.1"

    def _common(self, host: int, port: int = 0) -> List[str]:
        return ["--listen", self.address(host), "--port", str(port),
                "--settings", str(self.folder / "empty.conf")]

    def _folder(self, name: str) -> Path:
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        return folder

    def _start(self, role: str, name: str, host: int, arguments: Sequence[str]) -> Role:
        log = self._folder(name) / "log"
        read_fd, write_fd = os.pipe()
        try:
            process = self.popen(host, [role, *arguments, "--ready-fd", str(write_fd)], log=log,
                                 pass_fds=(write_fd,))
        finally:
            os.close(write_fd)
        started = Role(name, process, "", log, self._folder(name))
        self.roles.append(started)
        started.where = wait_ready(read_fd, name, START_S)
        return started

    def popen(self, host: int, arguments: Sequence[str], *, log: Optional[Path] = None,
              **options: Any) -> "subprocess.Popen[bytes]":
        """Run dfly on a host of the star (or here); without `log`, output goes to pipes."""
        # Compiled code is kept as on any host, whatever this shell says: else each start compiles.
        environ = {key: value for key, value in os.environ.items()
                   if not key.startswith("DFLY_") and key != "PYTHONDONTWRITEBYTECODE"}
        options.setdefault("env", {**environ, "HOME": str(self.folder),
                                   "XDG_CACHE_HOME": str(self.folder / "cache"),
                                   **options.pop("more_env", {})})
        argv = [*self.program, *arguments]
        with open(log or os.devnull, "ab") as sink:
            options.setdefault("stdout", sink if log else subprocess.PIPE)
            options.setdefault("stderr", sink if log else subprocess.PIPE)
            if self.star is not None:
                return self.star.popen(host, argv, **options)  # type: ignore[no-any-return]
            options.setdefault("stdin", subprocess.DEVNULL)
            return subprocess.Popen(argv, start_new_session=True, **options)

    # ------------------------------------------------------------------------------- gets
    def get_popen(self, peer: Role, url: str, *flags: str, host: int = 0,
                  **options: Any) -> "subprocess.Popen[bytes]":
        process = self.popen(host, ["get", url, "--socket", peer.socket,
                                    "--settings", str(self.folder / "empty.conf"), *flags],
                             **options)
        self.others.append(process)
        return process

    def get(self, peer: Role, url: str, *flags: str, timeout_s: float = 60,
            **options: Any) -> Got:
        """Run `dfly get URL FLAGS` through `peer` to its end."""
        return finish(self.get_popen(peer, url, *flags, **options), timeout_s)

    def warm_up(self) -> None:
        """Have the compiled code of `dfly get` cached, as on any host that ran it once."""
        self.run("get", "http://127.0.0.1:1/", "--no-start", "--socket",
                 str(self.folder / "nobody"))

    def run(self, *arguments: str, timeout_s: float = 60, **options: Any) -> Got:
        """Run any dfly command to its end."""
        process = self.popen(0, arguments, **options)
        self.others.append(process)
        return finish(process, timeout_s)

    # ------------------------------------------------------------------------------- end
    def stop(self) -> None:
        """End everything, politely first; whatever hangs is killed and told of."""
        processes = [*self.others, *(role.process for role in reversed(self.roles))]
        for process in processes:
            if process.poll() is None:
                process.terminate()
        hung = []
        for process in processes:
            try:
                process.wait(END_S)
            except subprocess.TimeoutExpired:
                hung.append(process.args)
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            for pipe in (process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()
        assert not hung, f"did not end on SIGTERM: {hung}"


def finish(process: "subprocess.Popen[bytes]", timeout_s: float = 60) -> Got:
    out, err = process.communicate(timeout=timeout_s)
    return Got(process.returncode, out or b"", (err or b"").decode("utf-8", "replace"))

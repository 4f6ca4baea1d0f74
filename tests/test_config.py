"""Settings: what wins, where each value came from, and what is refused."""
from __future__ import annotations

import argparse
import os
import stat
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Dict, Iterator, Optional, Type

import pytest

from dfly import config
from dfly.config import (
    PEER_PORT,
    ROLES,
    ConfigSettings,
    GetSettings,
    PeerSettings,
    ServeSettings,
    Settings,
    add_flags,
    flag_of,
    load,
    origin_of,
    settings_of,
    variable_of,
    with_server_values,
)
from dfly.errors import FileError, UsageError


@pytest.fixture(autouse=True)
def no_files_of_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)


NOBODY = 65534


@contextmanager
def as_nobody(folder: Path) -> Iterator[None]:
    """Another user's rights, with a way to `folder`."""
    for above in [folder, *folder.parents][:-1]:
        above.chmod(above.stat().st_mode | 0o011)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def parsed(role: Type[Settings], *arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_flags(parser, role)
    return parser.parse_args(arguments)


def write(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return str(path)


def test_what_is_nearer_to_the_user_wins(tmp_path: Path) -> None:
    path = write(tmp_path / "c", "[peer]\nport = 3\nupload-limit = 3k\nquota = 3\n")
    environ = {"DFLY_PEER_PORT": "4", "DFLY_PEER_UPLOAD_LIMIT": "4k"}
    args = parsed(PeerSettings, "--settings", path, "--port", "5")
    server = {"port": "2", "upload_limit": "2k", "quota": "2", "upload_slots": "2"}
    settings = load(PeerSettings, args, environ, server)
    assert (settings.port, settings.upload_limit_bps, settings.quota, settings.upload_slots) == (
        5, 4096.0, 3, 2)
    assert settings.listen == "0.0.0.0"
    assert [origin_of(settings, name) for name in (
        "port", "upload_limit_bps", "quota", "upload_slots", "listen")] == [
        "flag --port", "environment DFLY_PEER_UPLOAD_LIMIT", f"file {path}", "config server",
        "built-in"]


def test_values_of_a_config_server_may_change_later() -> None:
    settings = load(PeerSettings, parsed(PeerSettings, "--quota", "7"), {}, {"upload_slots": "2"})
    again = with_server_values(settings, {"upload_slots": "3", "quota": "1", "new-knob": "x"})
    assert (again.upload_slots, again.quota, again.rejected) == (3, 7, ())


def test_a_bad_value_of_a_config_server_is_left_out_and_told() -> None:
    settings = load(PeerSettings, SimpleNamespace(), {}, {"port": "\x1b[2J", "quota": "9"})
    assert (settings.port, settings.quota) == (config.PEER_PORT, 9)
    (line,) = settings.rejected
    assert line.startswith("port from the config server: not a port") and "\x1b" not in line


@pytest.mark.parametrize("role", ROLES)
def test_every_setting_can_be_said_in_every_way(role: Type[Settings], tmp_path: Path) -> None:
    """One value per kind, through flag, variable and file."""
    for about in settings_of(role):
        text = _example(about.parse, about.default)
        value = about.parse(text)
        switch = about.parse is config.parse_bool
        arguments = [flag_of(about.name)] + ([] if switch else [text])
        path = write(tmp_path / "c", f"[{role.role}]\n{config.key_of(about.name)} = {text}\n")
        ways: Dict[str, Settings] = {
            "flag": load(role, parsed(role, *arguments), {}),
            "environment": load(role, SimpleNamespace(), {variable_of(role, about.name): text}),
            "file": load(role, parsed(role, "--settings", path), {})}
        for way, settings in ways.items():
            assert getattr(settings, about.name) == value, (way, about.name)
            assert origin_of(settings, about.name).startswith(way)


def _example(parse: Any, default: Any) -> str:
    for text in ("yes", "7", "503", "/some/where", "10.0.0.0/8=eu/dc1", "10.0.0.1:99"):
        try:
            value = parse(text)
        except UsageError:
            continue
        if value != default and (default is None or type(value) is type(default)):
            return text
    raise AssertionError(f"no example for {parse}")


def test_names_have_no_units() -> None:
    assert flag_of("upload_limit_bps") == "--upload-limit"
    assert variable_of(ServeSettings, "revalidate_s") == "DFLY_SERVE_REVALIDATE"


def test_short_variables_yield_to_the_regular_ones() -> None:
    environ = {"DFLY_MANAGER": "a,b:1", "DFLY_SOCKET": "/s"}
    settings = load(PeerSettings, SimpleNamespace(), environ)
    assert settings.manager == ("a:65002", "b:1") and settings.socket == "/s"
    assert load(GetSettings, SimpleNamespace(), environ).manager == ("a:65002", "b:1")
    environ["DFLY_PEER_MANAGER"] = "c"
    assert load(PeerSettings, SimpleNamespace(), environ).manager == ("c:65002",)


def test_kubernetes_variables_are_no_ports() -> None:
    environ = {"DFLY_PEER_PORT": "tcp://10.96.0.7:65003"}
    assert load(PeerSettings, SimpleNamespace(), environ).port == config.PEER_PORT


def test_lists_add_up_and_lose_doubles() -> None:
    args = parsed(PeerSettings, "--manager", "a", "--manager", "b,a:65002", "--manager", "[::1]:5")
    assert load(PeerSettings, args, {}).manager == ("a:65002", "b:65002", "[::1]:5")


def test_the_users_file_and_the_systems(tmp_path: Path) -> None:
    write(tmp_path / ".config/dfly/dfly.conf", "[config]\nport=1\n[peer]\nquota=5M\n")
    assert load(PeerSettings, SimpleNamespace(), {}).quota == 5 << 20
    assert load(ConfigSettings, SimpleNamespace(), {}).port == 1
    other = write(tmp_path / "xdg/dfly/dfly.conf", "[peer]\nquota = 6\n")
    environ = {"XDG_CONFIG_HOME": str(tmp_path / "xdg")}
    settings = load(PeerSettings, SimpleNamespace(), environ)
    assert (settings.quota, origin_of(settings, "quota")) == (6, f"file {other}")


@pytest.mark.parametrize("text, words", [
    ("[peer]\nprot = 1\n", "knows no setting 'prot'"),
    ("[peer]\nport = x\n", "file .*: not a port: 'x'"),
    ("port = 1\n", "settings file: .*no section headers"),
    ("[peer]\nport=1\nport=2\n", "already exists"),
])
def test_a_wrong_file_is_told_with_its_name(tmp_path: Path, text: str, words: str) -> None:
    path = write(tmp_path / "c", text)
    with pytest.raises(UsageError, match=words) as caught:
        load(PeerSettings, parsed(PeerSettings, "--settings", path), {})
    assert path in str(caught.value) and "\n" not in str(caught.value)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="No such file"):
        load(PeerSettings, SimpleNamespace(settings_file=str(tmp_path / "absent")), {})
    (tmp_path / "bytes").write_bytes(b"[peer]\n\xff")
    with pytest.raises(UsageError):
        load(PeerSettings, SimpleNamespace(settings_file=str(tmp_path / "bytes")), {})
    (tmp_path / "long").write_bytes(b"#" * (config.FILE_MAX + 1))
    with pytest.raises(UsageError, match="no settings file"):
        load(PeerSettings, SimpleNamespace(settings_file=str(tmp_path / "long")), {})


def test_what_is_no_file_in_a_usual_place_is_refused_at_once(tmp_path: Path) -> None:
    place = tmp_path / ".config/dfly/dfly.conf"
    place.parent.mkdir(parents=True)
    os.mkfifo(place)
    with pytest.raises(FileError, match="dfly.conf: it is no file"):
        load(PeerSettings, parsed(PeerSettings), {})
    place.unlink()
    place.mkdir()
    with pytest.raises(FileError, match="it is no file"):
        load(PeerSettings, parsed(PeerSettings), {})
    place.rmdir()
    place.symlink_to(os.devnull)   # so settings are masked
    assert load(PeerSettings, parsed(PeerSettings), {}).port == PEER_PORT


def test_settings_that_the_user_names_may_come_by_a_pipe() -> None:
    read_fd, write_fd = os.pipe()
    os.write(write_fd, b"[peer]\nport=7\n")
    os.close(write_fd)
    args = parsed(PeerSettings, "--settings", f"/dev/fd/{read_fd}")
    assert load(PeerSettings, args, {}).port == 7
    os.close(read_fd)


def test_no_settings_are_read_from_the_current_folder(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "~/.config/dfly/dfly.conf", "[peer]\nport=7\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "~")  # what "~" is without HOME, for an unknown user id
    assert load(PeerSettings, parsed(PeerSettings), {}).port == PEER_PORT


@pytest.mark.parametrize("arguments", [
    ["--port", "65536"], ["--port", "-1"], ["--port", "\u0663"], ["--upload-limit", "fast"],
    ["--quota", "-5"], ["--idle-exit", "soon"], ["--manager", "a:0"], ["--manager", "a b"],
    ["--manager", "user@host"], ["--manager", "a/b:1"], ["--manager", "https://a"],
    ["--upload-slots", "0"], ["--socket", "/" + "s" * 101], ["--config", "a:b"],
])
def test_what_cannot_be_understood_is_refused_with_its_origin(arguments: "list[str]") -> None:
    with pytest.raises(UsageError, match="flag --"):
        load(PeerSettings, parsed(PeerSettings, *arguments), {})


@pytest.mark.parametrize("rule", ["10.0.0.0/8", "10.0.0.0/8=", "10.0.0.300/8=a", "=a", "x=y"])
def test_location_rules(rule: str) -> None:
    with pytest.raises(UsageError, match="location rule"):
        load(ServeSettings, parsed(ServeSettings, "--location-rules", rule), {})


@pytest.mark.parametrize("text, host, port", [
    ("h", "h", 9), ("h:1", "h", 1), ("10.0.0.1:65002", "10.0.0.1", 65002), ("[::1]", "::1", 9),
    ("[::1]:2", "::1", 2), ("::1", "::1", 9), ("http://h:3/", "h", 3),
])
def test_addresses(text: str, host: str, port: int) -> None:
    assert config.split_address(text, 9) == (host, port)
    assert config.split_address(config.join_address(host, port), 0) == (host, port)


def test_where_things_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "VAR_TMP", str(tmp_path))
    monkeypatch.setattr(config, "is_root", lambda: True)
    assert config.cache_dir({"XDG_CACHE_HOME": "/x"}) == "/var/cache/dfly"
    assert config.run_dir({}) == "/run/dfly"
    monkeypatch.setattr(config, "is_root", lambda: False)
    assert config.cache_dir({"XDG_CACHE_HOME": "/x"}) == "/x/dfly"
    assert config.cache_dir({"XDG_CACHE_HOME": "relative"}).endswith("/.cache/dfly")
    monkeypatch.setenv("HOME", "~")  # what "~" is without HOME, for an unknown user id
    assert config.cache_dir({}) == f"{tmp_path}/dfly-{os.geteuid()}"
    assert config.run_dir({"XDG_RUNTIME_DIR": "/run/user/7"}) == "/run/user/7/dfly"
    assert config.run_dir({}) == f"/tmp/dfly-{os.geteuid()}"


@pytest.mark.skipif(os.geteuid() != 0, reason="it takes another user's place")
@pytest.mark.parametrize("home", [None, "", "/nonexistent", "{}/mine", "{}/mine/below", "{}/file"])
def test_a_user_without_a_home_keeps_pieces_under_var_tmp(
        home: Optional[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody's, www-data's, a folder of mode 555: what is made is for that user only."""
    (tmp_path / "mine").mkdir(mode=0o555)
    (tmp_path / "file").write_bytes(b"")
    shared = tmp_path / "tmp"
    shared.mkdir()
    shared.chmod(0o1777)
    monkeypatch.setattr(config, "VAR_TMP", str(shared))
    if home is None:
        monkeypatch.delenv("HOME")
    else:
        monkeypatch.setenv("HOME", home.format(tmp_path))
    with as_nobody(tmp_path):
        store = load(PeerSettings, parsed(PeerSettings), {"XDG_RUNTIME_DIR": "/run"})
    assert store.store == f"{shared}/dfly-{NOBODY}/peer"
    assert store.socket == f"/tmp/dfly-{NOBODY}/peer.sock"   # /run is somebody else's, too
    made = os.stat(shared / f"dfly-{NOBODY}")
    assert (stat.S_IMODE(made.st_mode), made.st_uid) == (0o700, NOBODY)


@pytest.mark.skipif(os.geteuid() != 0, reason="it takes another user's place")
def test_somebody_elses_folder_under_var_tmp_is_refused(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "VAR_TMP", str(tmp_path))
    monkeypatch.setenv("HOME", "/nonexistent")
    squatted = tmp_path / f"dfly-{NOBODY}"
    squatted.mkdir()
    squatted.chmod(0o777)
    with as_nobody(tmp_path), pytest.raises(FileError, match="only this user may write"):
        load(PeerSettings, parsed(PeerSettings), {})
    squatted.rmdir()
    squatted.symlink_to(tmp_path)
    with as_nobody(tmp_path), pytest.raises(FileError, match="only this user may write"):
        load(PeerSettings, parsed(PeerSettings), {})


def test_a_private_folder_is_nobody_elses(tmp_path: Path) -> None:
    path = config.private_dir(str(tmp_path / "a/b"))
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o700
    assert config.private_dir(path) == path
    os.chmod(path, 0o770)
    with pytest.raises(FileError, match="only this user may write"):
        config.private_dir(path)
    (tmp_path / "link").symlink_to(tmp_path / "a")
    with pytest.raises(FileError):
        config.private_dir(str(tmp_path / "link"))
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(FileError):
        config.private_dir(str(tmp_path / "file"))

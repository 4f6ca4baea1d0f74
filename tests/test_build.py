"""The built executable: the same every time, small, quick, clear to old Pythons, safe caching."""
from __future__ import annotations

import ast
import importlib.util
import io
import marshal
import os
import shutil
import subprocess
import sys
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Any, Dict, List, Optional

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def build() -> Any:
    spec = importlib.util.spec_from_file_location("build", ROOT / "build.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def executable(build: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("dist") / "dfly"
    path.write_bytes(build.pack(build.package_files(str(ROOT)), build.EPOCH_DEFAULT))
    path.chmod(0o755)
    return path


def run(executable: Path, *arguments: str, python: str = sys.executable,
        cache: Optional[Path] = None, **environ: str) -> "subprocess.CompletedProcess[str]":
    """Run the file, with its cache of code in `cache` (None: nowhere)."""
    environment: Dict[str, str] = {
        key: value for key, value in os.environ.items()
        if key not in ("PYTHONDONTWRITEBYTECODE", "XDG_CACHE_HOME") and key[:5] != "DFLY_"}
    environment["XDG_CACHE_HOME"] = str(cache or "/nonexistent")
    return subprocess.run([python, str(executable), *arguments], env={**environment, **environ},
                          capture_output=True, text=True, check=False, cwd="/")


# ------------------------------------------------------------------------------ the file
def test_it_is_the_same_to_the_byte_whatever_the_place_and_the_umask(
        build: Any, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(ROOT / "dfly", copy / "dfly", ignore=shutil.ignore_patterns("__pycache__"))
    for path in copy.rglob("*.py"):
        os.chmod(path, 0o600)
        os.utime(path, (1, 1))
    assert build.pack(build.package_files(str(copy)), 10**9) == build.pack(
        build.package_files(str(ROOT)), 10**9)


def test_source_date_epoch_is_honoured(build: Any, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "dfly", tmp_path / "dfly")
    shutil.copy(ROOT / "build.py", tmp_path)
    subprocess.run([sys.executable, "build.py"], cwd=tmp_path, check=True, capture_output=True,
                   env={**os.environ, "SOURCE_DATE_EPOCH": "1600000000"})
    with zipfile.ZipFile(tmp_path / "dist/dfly") as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(2020, 9, 13, 12, 26, 40)}
        assert archive.namelist() == sorted(archive.namelist())
    assert os.access(tmp_path / "dist/dfly", os.X_OK)
    wrong = subprocess.run([sys.executable, "build.py"], cwd=tmp_path, check=False,
                           capture_output=True, env={**os.environ, "SOURCE_DATE_EPOCH": "soon"})
    assert wrong.returncode == 2


def test_times_that_a_zip_cannot_say(build: Any) -> None:
    assert build.zip_time(0) == (1980, 1, 1, 0, 0, 0)
    assert build.zip_time(1 << 40)[0] == 2107


def test_it_is_small_and_carries_data_of_the_package(build: Any, tmp_path: Path,
                                                     executable: Path) -> None:
    assert executable.stat().st_size < 400_000
    shutil.copytree(ROOT / "dfly", tmp_path / "dfly")
    (tmp_path / "dfly/web").mkdir(exist_ok=True)
    (tmp_path / "dfly/web/page.html").write_bytes(b"<p>")
    (tmp_path / "dfly/web/.hidden").write_bytes(b"x")
    (tmp_path / "dfly/notes.txt").write_bytes(b"x")
    files = build.package_files(str(tmp_path))
    assert files["dfly/web/page.html"] == b"<p>"
    assert not {"dfly/web/.hidden", "dfly/notes.txt"} & set(files)
    assert files["dfly/build_id"] != build.package_files(str(ROOT))["dfly/build_id"]


# ------------------------------------------------------------------------------ running it
def pythons() -> List[str]:
    """Other interpreters of this machine, by pyenv."""
    return sorted(map(str, Path("~/.pyenv/versions").expanduser().glob("*/bin/python")))


def version_of(python: str) -> "tuple[int, ...]":
    done = subprocess.run([python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"],
                          stdout=subprocess.PIPE, check=True)
    return tuple(map(int, done.stdout.split(b".")))


def test_what_is_spared_is_words_alone(build: Any) -> None:
    """Comments and docstrings go, every statement stays on its line."""
    for path in sorted((ROOT / "dfly").rglob("*.py")):
        source = path.read_bytes()
        spared = build.spared(source)
        assert _code(source) == _code(spared), path
        tokens = tokenize.generate_tokens(io.StringIO(spared.decode()).readline)
        assert not [token for token in tokens if token.type == tokenize.COMMENT
                    and token.start[0] > 1], path
        assert ast.get_docstring(ast.parse(source)) == ast.get_docstring(ast.parse(spared))


def _code(source: bytes) -> List[str]:
    """All of its syntax with lines, docstrings of classes and functions emptied."""
    tree = ast.parse(source)
    for entry in ast.walk(tree):
        if isinstance(entry, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and (
                ast.get_docstring(entry, clean=False) is not None):
            text: Any = entry.body[0]
            text.value.value = ""
            text.end_lineno = text.value.end_lineno = text.lineno
    return [ast.dump(tree), *(f"{entry.lineno}" for entry in ast.walk(tree)
                              if isinstance(entry, ast.stmt))]


def test_old_pythons_get_one_line(executable: Path) -> None:
    old = [python for python in pythons() if version_of(python) < (3, 9)]
    for python in old:
        done = run(executable, "--version", python=python)
        assert done.returncode == 2 and done.stdout == ""
        assert done.stderr.count("\n") == 1 and "needs Python 3.9" in done.stderr
    if not old:
        pytest.skip("no old Python on this machine")


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["help", "get"]])
def test_help_comes_at_once_on_every_python(executable: Path, tmp_path: Path,
                                            arguments: List[str]) -> None:
    """Processor time, because this machine may be busy; the bound is the user's wall clock."""
    for python in [sys.executable, *(p for p in pythons() if version_of(p) >= (3, 9))]:
        for cache in (None, tmp_path):
            times = (_cpu_s(executable, python, cache, arguments) for _ in range(3))
            assert any(cpu_s < 0.15 for cpu_s in times), (python, cache)


def _cpu_s(executable: Path, python: str, cache: Optional[Path], arguments: List[str]) -> float:
    before = os.times()
    done = run(executable, *arguments, python=python, cache=cache)
    after = os.times()
    assert done.returncode == 0, done.stderr
    return (after.children_user + after.children_system
            - before.children_user - before.children_system)


# ------------------------------------------------------------------------------ cached code
def code_folders(cache: Path) -> List[Path]:
    return sorted((cache / "dfly/code").iterdir()) if (cache / "dfly/code").exists() else []


def test_code_is_compiled_once_and_kept_privately(executable: Path, tmp_path: Path) -> None:
    assert run(executable, "--version", cache=tmp_path).returncode == 0
    (folder,) = code_folders(tmp_path)
    assert folder.stat().st_mode & 0o777 == 0o700
    kept = {path.name: path.stat().st_ino for path in folder.iterdir()}
    assert "dfly.cli" in kept and not any(name.startswith(".") for name in kept)
    assert run(executable, "--version", cache=tmp_path).stdout.startswith("dfly ")
    assert {path.name: path.stat().st_ino for path in folder.iterdir()} == kept


def test_cached_code_is_what_runs(executable: Path, tmp_path: Path) -> None:
    run(executable, "--version", cache=tmp_path)
    (folder,) = code_folders(tmp_path)
    data = marshal.dumps(compile("def main(): print('from the cache'); return 0", "x", "exec"))
    (folder / "dfly.cli").write_bytes(zlib.crc32(data).to_bytes(4, "big") + data)
    assert run(executable, "--version", cache=tmp_path).stdout == "from the cache\n"


@pytest.mark.parametrize("damage", [b"", b"\0\0\0", b"garbage of some length", None])
def test_damaged_code_is_compiled_again(executable: Path, tmp_path: Path,
                                        damage: Optional[bytes]) -> None:
    run(executable, "--version", cache=tmp_path)
    (folder,) = code_folders(tmp_path)
    whole = (folder / "dfly.cli").read_bytes()
    (folder / "dfly.cli").write_bytes(whole[:-1] if damage is None else damage)
    assert run(executable, "--version", cache=tmp_path).stdout.startswith("dfly ")
    assert (folder / "dfly.cli").read_bytes() == whole


def test_a_folder_that_others_may_write_is_not_used(executable: Path, tmp_path: Path) -> None:
    run(executable, "--version", cache=tmp_path)
    (folder,) = code_folders(tmp_path)
    data = marshal.dumps(compile("raise SystemExit('planted')", "x", "exec"))
    (folder / "dfly.cli").write_bytes(zlib.crc32(data).to_bytes(4, "big") + data)
    folder.chmod(0o777)
    assert run(executable, "--version", cache=tmp_path).stdout.startswith("dfly ")
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").chmod(0o700)
    assert run(executable, "--version", cache=tmp_path).stdout.startswith("dfly ")


@pytest.mark.parametrize("cache", ["/proc/nothing", "/dev/null", "relative/path"])
def test_nowhere_to_write_is_no_error(executable: Path, cache: str) -> None:
    done = run(executable, "--version", XDG_CACHE_HOME=cache, HOME="/nonexistent")
    assert done.stdout.startswith("dfly ") and done.stderr == ""


def test_not_writing_bytecode_is_respected(executable: Path, tmp_path: Path) -> None:
    run(executable, "--version", cache=tmp_path, PYTHONDONTWRITEBYTECODE="1")
    assert all(not list(folder.iterdir()) for folder in code_folders(tmp_path))


def test_builds_and_interpreters_keep_apart_and_old_ones_go(
        executable: Path, tmp_path: Path) -> None:
    for number in range(20):
        old = tmp_path / f"dfly/code/{number:016x}-old"
        old.mkdir(parents=True, mode=0o700)
        (old / "dfly.cli").write_bytes(b"x")
        os.utime(old, (number, number))
    (tmp_path / "dfly/code").chmod(0o700)
    run(executable, "--version", cache=tmp_path)
    left = [folder.name for folder in code_folders(tmp_path)]
    assert len(left) == 12 and f"{19:016x}-old" in left and f"{0:016x}-old" not in left
    assert any("cpython" in name for name in left)


def test_tracebacks_show_the_lines(executable: Path, tmp_path: Path) -> None:
    program = ("import sys, traceback; sys.path.insert(0, sys.argv[1]); "
               "from dfly import codecache; codecache.install(sys.argv[1])\n"
               "from dfly.units import parse_size\n"
               "try: parse_size('x')\n"
               "except Exception: traceback.print_exc()")
    for _ in range(2):  # compiled now, then from the cache
        done = subprocess.run([sys.executable, "-c", program, str(executable)], text=True,
                              capture_output=True, check=True, cwd="/",
                              env={"XDG_CACHE_HOME": str(tmp_path)})
        assert '"<dfly>/dfly/units.py"' in done.stderr
        assert 'raise UsageError(f"not a size: {text!r}"' in done.stderr


def test_a_running_program_survives_its_replacement(executable: Path, tmp_path: Path) -> None:
    """The daemon of yesterday's build imports a module after today's took its place."""
    copy = tmp_path / "dfly"
    shutil.copy(executable, copy)
    program = ("import os, sys; sys.path.insert(0, sys.argv[1]); "
               "from dfly import codecache; codecache.install(sys.argv[1]); "
               "open(sys.argv[1] + '.new', 'wb').write(b'other' * 1000); "
               "os.replace(sys.argv[1] + '.new', sys.argv[1]); "
               "import dfly.units; print(dfly.units.parse_size('1k'))")
    done = subprocess.run([sys.executable, "-c", program, str(copy)], text=True, check=False,
                          capture_output=True, env={"XDG_CACHE_HOME": str(tmp_path / "cache")})
    assert done.stdout == "1024\n", done.stderr


def test_files_beside_modules_can_be_read(build: Any, tmp_path: Path) -> None:
    files = build.package_files(str(ROOT))
    files["dfly/web/page.html"] = b"<p>"
    path = tmp_path / "dfly"
    path.write_bytes(build.pack(files, build.EPOCH_DEFAULT))
    program = ("import os, sys; sys.path.insert(0, 'dfly'); "
               "from dfly import codecache; codecache.install('dfly'); os.chdir('/'); "
               "import pkgutil; print(pkgutil.get_data('dfly', 'web/page.html'))")
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, text=True, check=True,
                          capture_output=True)
    assert done.stdout == "b'<p>'\n"


def test_no_home_is_no_error(executable: Path) -> None:
    done = subprocess.run([sys.executable, str(executable), "--version"], cwd="/", check=True,
                          env={"HOME": "nowhere"}, capture_output=True, text=True, timeout=20)
    assert done.stdout.startswith("dfly ")

"""The floors, the sizes and the words of the design, held by a test.

Imports are read with `ast` from the sources, also those inside functions: what is lazily imported
still couples two floors.
"""
from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
from pathlib import Path
from typing import Dict, Iterator, List, Set, Tuple

import pytest

from dfly.cli import COMMANDS

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "dfly"

WORDS = ("errors", "units", "clock", "digest", "names", "task", "access")
# What modules of a floor may import from dfly, beside their own folder.
FLOORS: Dict[str, Tuple[str, ...]] = {
    **dict.fromkeys(WORDS, WORDS),
    "wire": WORDS,
    "core": (*WORDS, "wire"),
    "net": (*WORDS, "wire", "core"),
    "store": (*WORDS, "wire", "core", "net"),
    "source": (*WORDS, "wire", "core", "net", "store"),
    "config": WORDS,
    "service": (*WORDS, "wire", "core", "net", "store", "source", "config"),
    "cli": (*WORDS, "wire", "core", "net", "store", "source", "config", "service", "sim"),
    "sim": (*WORDS, "wire", "core"),
    "codesave": (),
    "codecache": ("codesave",),
    "__main__": ("codecache", "cli"),
}
# Words that the design bans from names, because they mean nothing or something else.
BANNED_NAMES = ("util", "utils", "helper", "helpers", "common", "misc", "info", "block", "node",
                "agent")
# A machine has no clock, no chance of its own and no outside.
CORE_BANNED = {"asyncio", "socket", "os", "time", "datetime", "secrets", "threading", "select",
               "selectors", "ssl", "subprocess", "logging", "sqlite3", "tempfile", "uuid", "io",
               "pathlib", "shutil", "signal"}
CORE_RANDOM = {"Random"}  # the type of what is injected; the module's functions are one global
MODULE_LINES_MAX = 600
FUNCTION_LINES_MAX = 70
ARGUMENTS_MAX = 6
LINE_MAX = 100
HEAVY = ("asyncio", "ssl", "http", "http.client", "sqlite3", "json", "logging", "multiprocessing",
         "urllib.request")


def sources() -> List[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if "__pycache__" not in path.parts)


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def floor_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def imports_of(path: Path, at_run_time: bool = False) -> Iterator[str]:
    """Modules that a file imports; with `at_run_time`, only those imported when it is loaded."""
    package = name_of(path) if path.name == "__init__.py" else name_of(path).rpartition(".")[0]
    known = {name_of(source) for source in sources()}
    nodes = _loaded_nodes(tree_of(path)) if at_run_time else ast.walk(tree_of(path))
    for entry in nodes:
        if isinstance(entry, ast.Import):
            yield from (alias.name for alias in entry.names)
        elif isinstance(entry, ast.ImportFrom):
            base = entry.module or ""
            if entry.level:
                above = package.split(".")[:len(package.split(".")) - entry.level + 1]
                base = ".".join([*above, *filter(None, [entry.module])])
            for alias in entry.names:
                whole = f"{base}.{alias.name}"
                yield whole if whole in known else base


def _loaded_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """Statements run at import: no function bodies, no `if TYPE_CHECKING`."""
    for entry in ast.iter_child_nodes(tree):
        if isinstance(entry, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(entry, ast.If) and "TYPE_CHECKING" in ast.unparse(entry.test):
            yield from (node for other in entry.orelse for node in [other, *_loaded_nodes(other)])
            continue
        yield entry
        yield from _loaded_nodes(entry)


def functions_of(path: Path) -> Iterator["ast.FunctionDef | ast.AsyncFunctionDef"]:
    for entry in ast.walk(tree_of(path)):
        if isinstance(entry, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield entry


def test_imports_go_down_only() -> None:
    wrong = []
    for path in sources():
        module = name_of(path)
        floor = floor_of(module)
        if not floor:
            continue
        allowed = (floor, "", *FLOORS.get(floor, ()))
        assert floor in FLOORS, f"{module}: a new floor needs a line in FLOORS"
        wrong += [f"{module} imports {target}" for target in imports_of(path)
                  if target.split(".")[0] == "dfly" and floor_of(target) not in allowed]
    assert not wrong, "\n".join(wrong)


def test_words_rest_on_the_standard_library_alone() -> None:
    for path in sources():
        for target in imports_of(path):
            top = target.split(".")[0]
            standard = top in getattr(sys, "stdlib_module_names", {top})
            optional = top == "cryptography"
            assert top == "dfly" or standard or optional, f"{path}: {target}"


def test_no_import_cycles() -> None:
    graph = {name_of(path): {target for target in imports_of(path, at_run_time=True)
                             if target.split(".")[0] == "dfly" and target != name_of(path)}
             for path in sources()}
    done: Set[str] = set()

    def visit(module: str, way: List[str]) -> None:
        assert module not in way, " -> ".join([*way[way.index(module):], module])
        if module in done or module not in graph:
            return
        for target in sorted(graph[module]):
            visit(target, [*way, module])
        done.add(module)

    for module in sorted(graph):
        visit(module, [])


def test_core_has_no_clock_no_chance_and_no_outside() -> None:
    wrong = []
    for path in (PACKAGE / "core").rglob("*.py"):
        wrong += [f"{path.name} imports {target}" for target in imports_of(path)
                  if target.split(".")[0] in CORE_BANNED or target == "dfly.clock"]
        for entry in ast.walk(tree_of(path)):
            if isinstance(entry, ast.Attribute) and ast.unparse(entry.value) == "random" \
                    and entry.attr not in CORE_RANDOM:
                wrong.append(f"{path.name}:{entry.lineno} uses random.{entry.attr}")
            if isinstance(entry, ast.ImportFrom) and entry.module == "random":
                wrong += [f"{path.name} imports random.{alias.name}" for alias in entry.names
                          if alias.name not in CORE_RANDOM]
            if isinstance(entry, ast.Call) and ast.unparse(entry.func) in ("open", "print", "id",
                                                                           "hash", "input"):
                wrong.append(f"{path.name}:{entry.lineno} calls {ast.unparse(entry.func)}()")
    assert not wrong, "\n".join(wrong)


def test_wire_and_words_are_without_io() -> None:
    for path in [*(PACKAGE / "wire").rglob("*.py"), *(PACKAGE / f"{word}.py" for word in WORDS)]:
        allowed = {"time"} if path.name == "clock.py" else set()
        for target in imports_of(path):
            assert target.split(".")[0] not in CORE_BANNED - allowed, f"{path.name}: {target}"


@pytest.mark.parametrize("path", sources(), ids=name_of)
def test_sizes(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= MODULE_LINES_MAX, f"{len(lines)} lines"
    for number, line in enumerate(lines, 1):
        assert len(line) <= LINE_MAX, f"line {number}"
    for function in functions_of(path):
        assert function.end_lineno is not None
        size = function.end_lineno - function.lineno + 1
        assert size <= FUNCTION_LINES_MAX, f"{function.name}: {size} lines"


@pytest.mark.parametrize("path", sources(), ids=name_of)
def test_files_open_with_their_purpose(path: Path) -> None:
    docstring = ast.get_docstring(tree_of(path))
    assert docstring and len(docstring) >= 20, "a module opens by saying what it is"


@pytest.mark.parametrize("path", sources(), ids=name_of)
def test_everything_is_annotated_and_takes_few_arguments(path: Path) -> None:
    for function in functions_of(path):
        if name_of(path) == "dfly.__main__":
            continue  # must parse on Python 2.7
        arguments = function.args
        named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        taken = [entry for entry in named if entry.arg not in ("self", "cls")]
        required = [entry for entry in arguments.posonlyargs + arguments.args
                    if entry.arg not in ("self", "cls")]
        assert len(required) - len(arguments.defaults) <= ARGUMENTS_MAX, function.name
        assert all(entry.annotation for entry in taken), f"{function.name}: an argument"
        assert function.returns is not None, f"{function.name}: its result"


def test_names_say_something() -> None:
    for path in sources():
        for part in path.relative_to(ROOT).with_suffix("").parts:
            assert part not in BANNED_NAMES, path
        for entry in ast.walk(tree_of(path)):
            if isinstance(entry, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                words = re.findall(r"[a-z]+|[A-Z][a-z]*", entry.name)
                assert not {word.lower() for word in words} & set(BANNED_NAMES), (
                    f"{path.name}: {entry.name}")


def test_nothing_is_left_to_do() -> None:
    marks = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
    for path in sources():
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            assert not marks.search(line), f"{path}:{number}"


def test_swallowed_exceptions_give_a_reason() -> None:
    for path in sources():
        lines = path.read_text(encoding="utf-8").splitlines()
        for entry in ast.walk(tree_of(path)):
            if not isinstance(entry, ast.ExceptHandler):
                continue
            assert entry.type is not None, f"{path}:{entry.lineno}: a bare except"
            if len(entry.body) == 1 and isinstance(entry.body[0], ast.Pass):
                said = lines[entry.lineno - 1:entry.body[0].lineno]
                assert any("#" in line for line in said), f"{path}:{entry.lineno}: why?"


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], *(
    ["help", command] for command in COMMANDS if command != "simulate")])
def test_asking_for_help_imports_nothing_heavy(arguments: List[str]) -> None:
    program = ("import sys; from dfly.cli import main; code = main(sys.argv[1:]); "
               "sys.stderr.write(' '.join(sys.modules)); sys.exit(code)")
    done = subprocess.run([sys.executable, "-S", "-c", program, *arguments], cwd=ROOT, text=True,
                          capture_output=True, check=True)
    assert done.stdout
    assert not set(HEAVY) & set(done.stderr.split())

"""The rooms of the package: every import goes down, none goes round, and the root is empty."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import consistentid

SOURCES = Path(consistentid.__file__).parent
FLOORS = (  # from the top floor down: a room imports from itself and from those below
    "__main__",
    "cli",
    "",  # the root's own names, which it takes from the rooms below
    "serving",
    "evaluation",
    "training",
    "drawn",
    "data",
    "pipeline",
    "presets",
    "adapter",
    "faces",
    "pages",
    "provenance",
    "files",
    "nn",
    "errors",
)


def imports(sources: Path) -> dict[str, set[str]]:
    """Module -> modules of the package that it imports: at its top, within functions, or for types only."""
    files = {}
    for file in sources.rglob("*.py"):
        parts = file.relative_to(sources).with_suffix("").parts
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return {module: set(_imported(parsed(file), files)) - {module} for module, file in files.items()}


@cache
def parsed(file: Path) -> ast.Module:
    """What a file holds; several tests look at all of them."""
    return ast.parse(file.read_text())


def _imported(tree: ast.Module, modules: Mapping[str, Path]) -> Iterator[str]:
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports name the whole path"
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [x if x.removeprefix("consistentid.") in modules else str(node.module) for x in whole]
        for name in names:
            package, _, module = name.partition(".")
            if package == "consistentid":
                assert module in modules, f"no module consistentid.{module}"
                yield module


def upward(graph: Mapping[str, set[str]]) -> list[str]:
    """Imports from a higher floor."""
    floor = {room: number for number, room in enumerate(FLOORS)}
    room = {module: floor[module.partition(".")[0]] for module in graph}
    return [f"{a or 'the root'} imports {b}" for a, found in graph.items() for b in found if room[b] < room[a]]


def test_imports_go_down_and_not_round() -> None:
    graph = imports(SOURCES)
    assert len(graph) > 100
    assert not upward(graph)
    TopologicalSorter(graph).prepare()  # raises at a circle


def test_the_root_holds_nothing_but_the_entrances_and_the_errors() -> None:
    assert {file.stem for file in SOURCES.glob("*.py")} == {"__init__", "__main__", "errors"}
    rooms = {file.relative_to(SOURCES).parts[0] for file in SOURCES.rglob("*.py") if file.parent != SOURCES}
    assert rooms <= set(FLOORS)


def test_a_wrong_import_is_found_wherever_it_stands(tmp_path: Path) -> None:
    for name, text in {
        "files/a.py": "def f() -> None:\n    from consistentid.files import b\n",
        "files/b.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from consistentid.files.a import f\n",
        "faces/c.py": "import consistentid.pipeline\n",
        "pipeline/__init__.py": "from consistentid.faces.c import x\n",
        "files/__init__.py": "",
        "faces/__init__.py": "",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    graph = imports(tmp_path)
    assert upward(graph) == ["faces.c imports pipeline"]
    with pytest.raises(CycleError):
        TopologicalSorter({module: found for module, found in graph.items() if "files" in module}).prepare()


POSIX_ONLY = {
    "os": {
        "O_NONBLOCK", "WNOHANG", "chown", "fork", "forkpty", "getloadavg", "getpgid", "geteuid", "getuid", "killpg",
        "lchown", "mkfifo", "mknod", "nice", "openpty", "posix_fadvise", "posix_spawn", "sched_getaffinity", "setsid",
        "statvfs", "sysconf", "uname", "wait", "wait3", "wait4", "waitid", "waitpid",
    },
    "signal": {"SIGALRM", "SIGCHLD", "SIGHUP", "SIGKILL", "SIGQUIT", "SIGUSR1", "SIGUSR2", "alarm", "setitimer"},
    "multiprocessing": {"fork", "forkserver"},
}  # fmt: skip
POSIX_MODULES = {"fcntl", "grp", "pty", "pwd", "resource", "syslog", "termios", "tty"}


def only_posix(tree: ast.Module) -> list[str]:
    """What only POSIX systems have and code names outside of a `try` with a way out for where it is not."""
    guarded = {
        id(inside)
        for node in ast.walk(tree)
        if isinstance(node, ast.Try)
        and any(getattr(x.type, "id", "") in ("ImportError", "AttributeError") for x in node.handlers)
        for part in node.body
        for inside in ast.walk(part)
    }
    found = []
    for node in (node for node in ast.walk(tree) if id(node) not in guarded):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {getattr(node, "module", None), *(alias.name for alias in node.names)}
            found += sorted(POSIX_MODULES & names)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.attr in POSIX_ONLY.get(node.value.id, ()):
                found.append(f"{node.value.id}.{node.attr}")
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") in ("get_context", "set_start_method"):
            found += [x.value for x in node.args if isinstance(x, ast.Constant) and str(x.value).startswith("fork")]
    return found


def test_nothing_that_posix_alone_has_is_without_a_twin() -> None:
    assert not {str(file): found for file in SOURCES.rglob("*.py") if (found := only_posix(parsed(file)))}
    text = "import fcntl\nos.fork()\nmultiprocessing.get_context('fork')\n"
    assert only_posix(ast.parse(text)) == ["fcntl", "fork", "os.fork"]
    assert only_posix(ast.parse("try:\n    import resource\nexcept ImportError:\n    pass\n")) == []


def test_every_package_that_is_imported_is_declared() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    declared = {re.split(r"[\[<>=~! ]", name)[0].lower().replace("_", "-") for group in groups for name in group}
    declared |= {"starlette", "markupsafe", "tokenizers"}  # of which fastapi, jinja2 and transformers are made
    imported = {
        name.partition(".")[0]
        for file in SOURCES.rglob("*.py")
        for node in ast.walk(parsed(file))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([alias.name for alias in node.names] if isinstance(node, ast.Import) else [str(node.module)])
    }
    third_party = imported - set(sys.stdlib_module_names) - {"consistentid"}
    assert {"torch", "psutil", "PIL"} <= third_party
    names = {"PIL": "pillow", "yaml": "pyyaml", "cv2": "opencv-python", "c2pa": "c2pa-python"}
    open_ones = {name for name in third_party if names.get(name, name.replace("_", "-").lower()) not in declared}
    known = packages_distributions() if open_ones else {}  # which looks through all that is installed
    missing = {name for name in open_ones if not {x.lower().replace("_", "-") for x in known.get(name, ())} & declared}
    assert not missing

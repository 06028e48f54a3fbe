"""The rooms of the package: every import goes down, none goes round, and the root is empty."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
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
    return {module: set(_imported(ast.parse(file.read_text()), files)) - {module} for module, file in files.items()}


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

"""Files of settings: every name, type and range is checked at every level, in bounded time; messages say what to do."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pytest

from consistentid.errors import CheckpointError, InputError
from consistentid.files.config import Between, OneOf, PathOrName, build, check, plain
from consistentid.files.documents import parse_yaml, read_config


@dataclass(frozen=True)
class Inner:
    steps: Annotated[int, Between(1, 500)]
    lr: Annotated[float, Between(0, open=True)] = 1e-3
    decay: float = 0.0

    def __post_init__(self) -> None:
        check(self)
        if self.decay > self.lr:
            raise InputError("decay is above lr; lower it")


@dataclass(frozen=True)
class Place:
    path: Path | None = None
    repo: str = ""

    @classmethod
    def from_text(cls, text: str) -> Mapping[str, Any]:
        return {"path" if text.startswith(".") else "repo": text}


@dataclass(frozen=True)
class Outer:
    inner: Inner
    kind: Literal["adamw", "sgd"] = "adamw"
    places: tuple[Place, ...] = ()
    pair: tuple[int, float] = (1, 2.0)
    share: Annotated[float, Between(0, 1)] | None = None
    cache: tuple[Annotated[str, OneOf(("a", "b"))], ...] = ()
    init: Annotated[str, PathOrName()] = ""
    free: dict[str, Any] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    flag: bool = False


def read(path: Path, text: str, **how: Any) -> Outer:
    path.write_text(text)
    return build(Outer, read_config(path, "recipe", **how), str(path))


def test_everything_there_is(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").touch()
    got = read(
        tmp_path / "a.yaml",
        "inner: {steps: 3, lr: 1e-4}\nkind: sgd\nplaces: [./x, owner/name, {repo: y}]\npair: [2, 3]\nshare: 1\n"
        "cache: [a]\ninit: weights.bin\nfree: {a: [1, {b: text}]}\nsizes: {w: 2}\nflag: true\n",
    )
    places = (Place(path=tmp_path / "x"), Place(repo="owner/name"), Place(repo="y"))
    free = {"a": [1, {"b": "text"}]}
    init = str(tmp_path / "weights.bin")
    assert got == Outer(Inner(3, 1e-4), "sgd", places, (2, 3.0), 1.0, ("a",), init, free, {"w": 2}, True)
    assert [type(x) for x in (got.pair[1], got.share, got.init, got.free["a"][1]["b"])] == [float, float, str, str]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("iner: {steps: 1}", "{file} has unknown options iner; known are inner, kind, places"),
        ("inner: {steps: 1, stepz: 1}", "{file}: inner has unknown options stepz; known are steps, lr, decay"),
        ("inner: {steps: 1}\nplaces: [x, {pth: y}]", "{file}: places.1 has unknown options pth; known are path, repo"),
        ("inner: {steps: 1}\n1: 2", "{file} has unknown options 1; known are inner"),
        ("kind: sgd", "{file} lacks inner; known are inner"),
        ("inner: {}", "{file}: inner lacks steps"),
        ("inner: 3", "{file}: inner is 3; write a mapping with steps, lr, decay"),
        ("inner: {steps: 0}", "{file}: inner.steps=0 is not allowed; give an integer from 1 to 500"),
        ("inner: {steps: 501}", "inner.steps=501 is not allowed"),
        ("inner: {steps: 1.0}", "inner.steps=1.0 is not allowed; give an integer"),
        ("inner: {steps: true}", "inner.steps=True is not allowed; give an integer"),
        ("inner: {steps: '1'}", "inner.steps='1' is not allowed; give an integer"),
        ("inner: {steps: }", "inner.steps=None is not allowed"),
        ("inner: {steps: 1, lr: 0}", "{file}: inner.lr=0 is not allowed; give a number above 0"),
        ("inner: {steps: 1, lr: .nan}", "inner.lr=nan is not allowed; give a number above 0"),
        ("inner: {steps: 1, lr: .inf}", "inner.lr=inf is not allowed"),
        ("inner: {steps: 1, decay: -.inf}", "inner.decay=-inf is not allowed; give a number that is finite"),
        ("inner: {steps: 1, decay: 1}", "{file}: inner: decay is above lr; lower it"),
        ("inner: {steps: 1}\nkind: adam", "{file}: kind='adam' is not allowed; give one of adamw, sgd"),
        ("inner: {steps: 1}\nshare: 1.1", "share=1.1 is not allowed; give a number from 0 to 1"),
        ("inner: {steps: 1}\ncache: [a, c]", "cache.1='c' is not allowed; give one of a, b"),
        ("inner: {steps: 1}\ncache: a", "cache='a' is not allowed; give a list"),
        ("inner: {steps: 1}\npair: [1]", "pair=[1] is not allowed; give a list of 2"),
        ("inner: {steps: 1}\nfree: [1]", "free=[1] is not allowed; give a mapping"),
        ("inner: {steps: 1}\nsizes: {w: x}", "sizes.w='x' is not allowed; give an integer"),
        ("inner: {steps: 1}\nsizes: {1: 2}", "sizes=1 is not allowed; give a text as its key"),
        ("inner: {steps: 1}\nflag: 1", "flag=1 is not allowed; give true or false"),
        ("inner: {steps: 1}\ninit: 1", "init=1 is not allowed; give a text"),
        ("inner: {steps: 1}\ninner: {steps: 2}", "{file}, line 2: cannot be read as YAML (inner is there twice)"),
        ("inner: {steps: 1, steps: 2}", "{file}, line 1: cannot be read as YAML (steps is there twice)"),
        ("inner: {steps: 1", "{file}, line 1: cannot be read as YAML (expected"),
        ("inner: {steps: 2001-13-45}", "{file}: cannot be read as YAML (month must be in 1..12"),
        ("inner: !!python/object:os.system {}", "cannot be read as YAML (could not determine a constructor"),
        ("\0", "cannot be read as YAML"),
        ("- 1", "{file}: holds [1]; a recipe is a mapping of options"),
        ("", "{file}: holds None; a recipe is a mapping of options"),
    ],
)
def test_what_is_wrong_is_said_with_what_is_right(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "a.yaml"
    with pytest.raises(InputError) as caught:
        read(file, text)
    assert message.replace("{file}", str(file)) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["[" * 10_000, "a: {" * 10_000, "".join(" " * n + "a:\n" for n in range(400)), "- " * 9000]
)
def test_yaml_nested_without_end(tmp_path: Path, text: str) -> None:
    began = time.process_time()
    with pytest.raises(InputError, match="is nested deeper than 50 levels; write it flatter"):
        read(tmp_path / "a.yaml", text)
    assert time.process_time() - began < 5  # seconds; without the limit it takes minutes


@pytest.mark.parametrize("text", ["a: &x [1]\nb: *x", "&x [*x]", "a: &x {b: 1}\nc: {<<: *x}"])
def test_aliases_are_refused_since_they_multiply(text: str) -> None:
    with pytest.raises(InputError, match=r"the alias \*x is not read here: write out what it stands for"):
        parse_yaml(text, "a.yaml")


def test_long_values_are_cut_in_messages(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read(tmp_path / "a.yaml", f"inner: {{steps: {'a' * 10_000}}}")
    assert len(str(caught.value)) < 400


def test_large_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="and a recipe at most"):
        read(tmp_path / "a.yaml", "#" * 300_000)


def test_numbers_as_yaml_1_2_has_them() -> None:
    assert parse_yaml("[1e-4, -2E3, 1.5e+2, .5e1, 1e5x]", "x") == [1e-4, -2e3, 150.0, 5.0, "1e5x"]


def test_a_file_says_what_differs_from_another(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base/a.yaml").write_text("inner: {steps: 1, lr: 2.0}\nplaces: [./x]\nfree: {a: 1, b: {c: 1}}\n")
    text = "extends: base/a.yaml\ninner: {steps: 5}\nfree: {b: {d: 2}}\n"
    got = read(tmp_path / "b.yaml", text)
    assert got.inner == Inner(5, 2.0)
    assert got.free == {"a": 1, "b": {"c": 1, "d": 2}}
    assert got.places == (Place(path=tmp_path / "base/x"),)  # relative to the file that names it
    assert read(tmp_path / "b.yaml", text, whole=["free"]).free == {"b": {"d": 2}}
    assert read(tmp_path / "b.yaml", text, whole=["free.b"]).free == {"a": 1, "b": {"d": 2}}
    changed = read(tmp_path / "b.yaml", text, changes=("inner.lr=1e-1", "free.b.d=[1, x]"))
    assert (changed.inner.lr, changed.free["b"]["d"]) == (0.1, [1, "x"])


def test_json_is_read_like_yaml(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"inner": {"steps": 1}, "places": ["./x"]}))
    got = build(Outer, read_config(tmp_path / "a.json", "recipe"), "a.json")
    assert got.places == (Place(path=tmp_path / "x"),)


def test_files_that_extend_in_a_circle_or_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.yaml: extends 'a\.yaml', which extends it in turn"):
        read(tmp_path / "a.yaml", "extends: a.yaml")
    for number in range(20):
        (tmp_path / f"{number}.yaml").write_text(f"extends: {number + 1}.yaml")
    with pytest.raises(InputError, match="in too many steps"):
        read_config(tmp_path / "0.yaml", "recipe")
    for text, message in (("extends: none.yaml", "none.yaml: no such file"), ("extends: [1]", r"extends=\[1\] is not")):
        with pytest.raises(InputError, match=message):
            read(tmp_path / "a.yaml", text)


@pytest.mark.parametrize(
    "change", ["a", "=1", "a..b=1", ".=1", "a.b=[", ".".join("a" * 100) + "=1", "a=" + "[" * 10_000]
)
def test_changes_that_are_none(tmp_path: Path, change: str) -> None:
    (tmp_path / "a.yaml").write_text("a: 1")
    with pytest.raises(InputError, match=r"^--set "):
        read_config(tmp_path / "a.yaml", "recipe", changes=(change,))


def test_calls_are_held_against_the_same_rules() -> None:
    made = Inner(np.int64(3), np.float32(0.5))  # type: ignore[arg-type]
    assert (made.steps, made.lr) == (3, 0.5)
    assert (type(made.steps), type(made.lr)) == (int, float)
    for wrong in (0, math.nan, "3", True, None, np.float64(1)):
        with pytest.raises(InputError, match=r"^steps=.* is not allowed; give an integer from 1 to 500$"):
            Inner(wrong)  # type: ignore[arg-type]


def test_errors_are_of_the_kind_asked_for(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        read_config(tmp_path / "a.yaml", "config", error=CheckpointError)
    with pytest.raises(CheckpointError, match="a: inner lacks steps"):
        build(Outer, {"inner": {}}, "a", error=CheckpointError)


def test_plain_values_remember_no_folder() -> None:
    assert type(plain(parse_yaml("[{a: b}]", "x"))[0]["a"]) is str

"""Whatever a path leads to is read in bounded time and memory, or refused in one line."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from consistentid.errors import ImageError, InputError
from consistentid.files.reading import MAX_DEPTH, check_file, parse_json, read_bytes, read_json


def sparse(path: Path, size: int) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
    return path


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="a system without pipes that are files")
def test_pipes_and_devices_are_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/zero")
    for path in (tmp_path / "pipe", tmp_path / "link", Path("/dev/zero"), Path("/dev/stdin")):
        with pytest.raises(InputError, match=f"^{path}: is not a regular file; save the recipe to disk first$"):
            read_bytes(path, what="recipe")


def test_files_of_holes_are_refused_by_their_size(tmp_path: Path) -> None:
    file = sparse(tmp_path / "a.yaml", 10**12)
    with pytest.raises(InputError, match=r"a\.yaml: has 1000 GB, and a recipe at most 262.1 kB; check the path"):
        read_bytes(file, 1 << 18, what="recipe")
    with pytest.raises(InputError, match="has 1000 GB"):
        read_json(file)


def test_names_that_cannot_be(tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    for path, reason in (
        (tmp_path / ("a" * 300), "too long"),
        (tmp_path / "a\0b", "null"),
        (loop, "links"),
        (tmp_path / "none", "no such file; check the path"),
        (tmp_path, "is a folder; name the picture inside it"),
    ):
        with pytest.raises(ImageError, match=reason) as caught:
            check_file(path, what="picture", error=ImageError)
        assert len(str(caught.value).splitlines()) == 1
        assert len(str(caught.value)) < 600


def test_json_of_another_kind(tmp_path: Path) -> None:
    for text, kind, wanted in (
        ("[1]", dict, "list, and no mapping"),
        ("3", dict, "int, and no mapping"),
        ("null", list, "NoneType, and no list"),
        ('{"a": 1}', list, "dict, and no list"),
    ):
        with pytest.raises(InputError, match=f"x.json: holds a {wanted}"):
            parse_json(text, "x.json", kind=kind)
    (tmp_path / "a.json").write_text('{"a": [1]}')
    assert read_json(tmp_path / "a.json", kind=dict) == read_json(tmp_path / "a.json") == {"a": [1]}


@pytest.mark.parametrize("opening", ["[", '{"a":', '[{"a":'])
@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 400, 10_000, 1_000_000])
def test_json_nested_without_end(opening: str, depth: int) -> None:
    closing = "".join({"[": "]", "{": "}"}[c] for c in reversed(opening) if c in "[{")
    with pytest.raises(InputError, match=f"x.json: is nested deeper than {MAX_DEPTH} levels"):
        parse_json(opening * depth + "1" + closing * depth, "x.json")


def test_what_is_no_json() -> None:
    for content in (b"", b"{", b"\xff\xfe", b"[1] 2"):
        with pytest.raises(InputError, match=r"x\.json: is not JSON .*; it is truncated or damaged"):
            parse_json(content, "x.json")


def test_ordinary_json_is_read(tmp_path: Path) -> None:
    value = {"a": [[[1]] * 100], "b": [{"c": "[[[["}] * 1000}
    (tmp_path / "a.json").write_text("\ufeff" + json.dumps(value), encoding="utf-8")
    assert read_json(tmp_path / "a.json") == value

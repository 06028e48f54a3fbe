"""Files that nobody means well with, given to every command that reads some: one line, exit code 2, no waiting."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from consistentid.cli import main

SECONDS = 120  # in which a command on a busy machine says no; a pipe would be waited for without end


def deep(opening: str, closing: str) -> Callable[[Path], None]:
    return lambda path: path.write_text(opening * 10_000 + closing * 10_000) and None


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


HOSTILE: dict[str, Callable[[Path], object]] = {
    "pipe": lambda path: os.mkfifo(path),
    "device": lambda path: path.symlink_to("/dev/zero"),
    "holes": sparse,
    "lists": deep("[", "]"),
    "mappings": deep('{"a":', "}"),
    "folder": lambda path: path.mkdir(),
    "noise": lambda path: path.write_bytes(bytes(range(256)) * 64),
    "circle": lambda path: path.symlink_to(path),
}

READERS: dict[str, tuple[str, list[str]]] = {
    "picture": ("who.png", ["generate", "{file}", "--prompt", "a woman", "--out", "{out}"]),
    "identity": ("who.safetensors", ["generate", "{file}", "--prompt", "a woman", "--out", "{out}"]),
    "photo": ("who.jpg", ["identify", "{file}", "--out", "{out}.safetensors"]),
    "preset": ("preset.yaml", ["identify", "who.png", "--preset", "{file}", "--out", "{out}.safetensors"]),
    "recipe": ("recipe.yaml", ["train", "{file}", "--out", "{out}"]),
    "recipe in JSON": ("recipe.json", ["train", "{file}", "--out", "{out}"]),
    "protocol": ("protocol.yaml", ["evaluate", "--protocol", "{file}", "--out", "{out}"]),
    "manifest": ("manifest.csv", ["evaluate", "--pictures", ".", "--manifest", "{file}", "--out", "{out}"]),
    "records": ("JSON_all.json", ["dataset", "check", "{folder}"]),
    "records to pack": ("JSON_all.json", ["dataset", "pack", "{folder}", "--out", "{out}"]),
    "index": ("index.parquet", ["dataset", "check", "{folder}"]),
    "tokens": ("tokens.txt", ["serve", "--token-file", "{file}", "--port", "0", "--host", "203.0.113.1"]),
    "note": ("drawing.json", ["dataset", "draw", "--people", "1", "--scenes", "1", "--out", "{folder}"]),
}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="a system without pipes that are files")
@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.parametrize("reader", READERS)
def test_one_line_and_no_waiting(tmp_path: Path, reader: str, hostile: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name, arguments = READERS[reader]
    folder = tmp_path / "in"
    folder.mkdir()
    HOSTILE[hostile](folder / name)
    filled = [x.format(file=folder / name, folder=folder, out=tmp_path / "out") for x in arguments]

    def too_long(*_: object) -> None:
        raise TimeoutError(f"{reader}: {hostile} is waited for")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(SECONDS)
    try:
        result = CliRunner().invoke(main, filled)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert result.exit_code == 2, result.output[-2000:]
    assert len(errors) == 1
    assert len(errors[0]) < 1500


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("which", ["file", "out"])
def test_names_of_300_characters(tmp_path: Path, reader: str, which: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    long = str(tmp_path / ("a" * 300))
    _, arguments = READERS[reader]
    given = {"file": tmp_path / "absent.yaml", "folder": tmp_path / "absent", "out": tmp_path / "out"}
    filled = [x.format(**given | {"file": long, "folder": long, "out": long}) for x in arguments]
    if which == "file":
        filled = [x.format(**given | {"file": long, "folder": long}) for x in arguments]
    result = CliRunner().invoke(main, filled)
    assert result.exit_code == 2, result.output[-2000:]
    assert len([line for line in result.stderr.splitlines() if line.startswith("error: ")]) == 1


def test_an_index_that_leads_out_of_its_folder(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    pyarrow = pytest.importorskip("pyarrow")
    (tmp_path / "secret").write_bytes(b"x" * 100)
    (tmp_path / "shards").mkdir()
    record = {"key": "a", "image": "a.png", "mask": "a.png", "caption": "", "face_caption": "", "extra": "{}"}
    for shard in ("../secret", "/etc/passwd", "..", "", "a/b.tar", "C:\\b.tar", None):
        row = record | {"person": None, "embedding": None, "shard": shard}
        row |= {f"{kind}_{what}": 0 for kind in ("image", "mask", "embedding") for what in ("offset", "length")}
        parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / "shards/index.parquet")
        result = CliRunner().invoke(main, ["dataset", "check", str(tmp_path / "shards")])
        assert result.exit_code == 2, result.output
        assert "which is not in that folder; pack the data set again" in result.stderr
        assert f"names the shard {shard!r}," in result.stderr


@pytest.mark.parametrize(("offset", "length"), [(-1, 5), (0, 1 << 50), (50, 51), (1 << 62, 1)])
def test_an_index_that_leads_out_of_its_shard(tmp_path: Path, offset: int, length: int) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    pyarrow = pytest.importorskip("pyarrow")
    (tmp_path / "a.tar").write_bytes(b"x" * 100)
    row = {"key": "a", "image": "a.png", "mask": "a.png", "caption": "", "face_caption": "", "extra": "{}"}
    row |= {"person": None, "embedding": None, "shard": "a.tar"}
    places: dict[str, object] = {f"{kind}_offset": offset for kind in ("image", "mask", "embedding")}
    places |= {f"{kind}_length": length for kind in ("image", "mask", "embedding")}
    parquet.write_table(pyarrow.Table.from_pylist([row | places]), tmp_path / "index.parquet")
    result = CliRunner().invoke(main, ["dataset", "check", str(tmp_path)])
    assert result.exit_code == 2, result.output
    assert "a.tar: ends too early" in result.stdout

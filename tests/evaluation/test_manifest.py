"""The list of pictures that any tool can write."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from consistentid.errors import InputError
from consistentid.evaluation.manifest import Row, read_manifest, write_manifest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("ada/1.png", "ada/2.png", "out/a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def test_what_is_written_is_read(folder: Path) -> None:
    made = Row("m", "ada", 'a "red" hat, worn', "clothing", 3, folder / "out/a.png", folder / "ada/1.png",
               (folder / "ada/2.png",), folder / "ada/2.png", 1.5, 200.0)  # fmt: skip
    write_manifest(folder / "manifest.csv", [made])
    assert read_manifest(folder / "manifest.csv") == [made]


def test_four_columns_are_enough(folder: Path) -> None:
    (folder / "peer.csv").write_text("picture,identity,reference,prompt\nout/a.png,ada,ada/1.png,a person\n")
    [row] = read_manifest(folder / "peer.csv")
    assert (row.method, row.seed, row.others, row.real) == ("peer", 0, (), None)
    assert math.isnan(row.seconds)


def test_paths_may_be_of_another_folder(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("elsewhere") / "list.csv"
    file.write_text("picture,identity,reference,prompt\nout/a.png,ada,ada/1.png,a person\n")
    assert read_manifest(file, folder)[0].picture == folder / "out/a.png"
    with pytest.raises(InputError, match=r"line 2: .*does not exist; paths are relative to"):
        read_manifest(file)


def test_a_picture_that_is_not_there_is_a_failure_and_no_error(folder: Path) -> None:
    (folder / "l.csv").write_text(
        "picture,identity,reference,prompt\n,ada,ada/1.png,a person\nout/lost.png,ada,ada/1.png,a person\n"
    )
    assert [row.picture for row in read_manifest(folder / "l.csv")] == [None, None]


def test_the_real_picture_is_one_of_the_others(folder: Path) -> None:
    (folder / "l.csv").write_text(
        "picture,identity,reference,prompt,real\nout/a.png,ada,ada/1.png,a person,ada/2.png\n"
    )
    assert read_manifest(folder / "l.csv")[0].others == (folder / "ada/2.png",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("picture,identity\n", "lacks the columns reference, prompt"),
        ("picture,identity,reference,prompt\n", "lists no pictures"),
        ("picture,identity,reference,prompt,sed\n", "has unknown columns sed; known are method, identity, prompt"),
        ("picture,identity,reference,prompt\nout/a.png,,ada/1.png,x\n", "line 2: identity.* must not be empty"),
        ("picture,identity,reference,prompt,seed\nout/a.png,ada,ada/1.png,x,one\n", "must be numbers"),
    ],
)
def test_broken_lists_are_refused(folder: Path, text: str, message: str) -> None:
    (folder / "l.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        read_manifest(folder / "l.csv")


def test_a_missing_list_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.csv: no such file"):
        read_manifest(tmp_path / "none.csv")

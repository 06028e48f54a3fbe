"""The layout of data sets: every spelling is read, one is written, and what is wrong is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from consistentid.data.records import RECORDS, Record, read_records, write_records
from consistentid.errors import DatasetError


def written(folder: Path, content: object) -> Path:
    (folder / RECORDS).write_text(json.dumps(content))
    return folder


def test_what_is_written_is_read(tmp_path: Path) -> None:
    records = [
        Record(
            "15/1.png", "15/1_mask.png", 'a "woman"\nin Zürich', "She has grün eyes.", "15/1.bin", "ada", {"age": 3}
        ),
        Record("2.png", "2.png"),
    ]
    path = write_records(tmp_path, records)
    assert path == tmp_path / RECORDS
    assert read_records(tmp_path) == records
    assert len(path.read_text().splitlines()) == 4  # one record a line, between the brackets
    first, second = json.loads(path.read_text())
    assert first == {
        "resize_IMG": "15/1.png",
        "parsing_mask_IMG": "15/1_mask.png",
        "vqa_llva": 'a "woman"\nin Zürich',
        "vqa_llva_more_face_detail": "She has grün eyes.",
        "id_embed_file_resize": "15/1.bin",
        "person": "ada",
        "age": 3,
    }
    assert second == {
        "resize_IMG": "2.png",
        "parsing_mask_IMG": "2.png",
        "vqa_llva": "",
        "vqa_llva_more_face_detail": "",
    }


@pytest.mark.parametrize("image", ["resize_IMG", "IMG", "origin_IMG"])
@pytest.mark.parametrize("face", ["vqa_llva_more_face_detail", "vqa_llva_facial", "vqa_llva_face_caption"])
@pytest.mark.parametrize("embedding", ["id_embed_file_resize", "id_embed_file_origin"])
def test_every_spelling_is_read(tmp_path: Path, image: str, face: str, embedding: str) -> None:
    item = {image: "a.png", "parsing_mask_IMG": "m.png", "vqa_llva": "words", face: "nose", embedding: "e.bin"}
    assert read_records(written(tmp_path, [item])) == [Record("a.png", "m.png", "words", "nose", "e.bin")]


def test_of_two_spellings_the_first_counts_and_the_other_is_kept(tmp_path: Path) -> None:
    item = {"origin_IMG": "raw.png", "resize_IMG": "a.png", "parsing_mask_IMG": "m.png", "parsing_color_IMG": "c.png"}
    [record] = read_records(written(tmp_path, [item]))
    assert record.image == "a.png"
    assert record.extra == {"origin_IMG": "raw.png", "parsing_color_IMG": "c.png"}
    write_records(tmp_path, [record])
    assert json.loads((tmp_path / RECORDS).read_text())[0].items() >= item.items()


def test_null_is_as_good_as_absent(tmp_path: Path) -> None:
    item = {"resize_IMG": None, "IMG": "a.png", "parsing_mask_IMG": "m.png", "id_embed_file_resize": None}
    [record] = read_records(written(tmp_path, [item]))
    assert (record.image, record.embedding) == ("a.png", None)
    write_records(tmp_path, [record])
    assert read_records(tmp_path)[0].image == "a.png"


def test_the_key_is_the_path_without_suffix() -> None:
    assert Record("a/b.c.png", "m.png").key == "a/b.c"


def test_files_lie_in_the_folder_of_their_kind() -> None:
    folder = Path("set")
    assert Record("1/a.png", "m.png").files(folder) == {
        "image": folder / "resize_IMG/1/a.png",
        "mask": folder / "parsing_mask_IMG/m.png",
    }
    assert Record("a.png", "m.png", embedding="e.bin").files(folder)["embedding"] == folder / "all_faceID/e.bin"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"records": []}, "holds a dict, and no list"),
        (["a.png"], "record 0: is a str; it must be a mapping"),
        (
            [{"IMG": "a.png", "parsing_mask_IMG": "m"}, {"IMG": "b.png"}],
            "record 1: has no mask; add .*'parsing_mask_IMG'",
        ),
        ([{"parsing_mask_IMG": "m.png"}], "record 0: has no image; add it under the key 'resize_IMG'"),
        ([{"IMG": 3, "parsing_mask_IMG": "m.png"}], "record 0: 'IMG' is 3; it must be a text"),
        (
            [{"IMG": "/home/me/a.png", "parsing_mask_IMG": "m.png"}],
            "record 0: image '/home/me/a.png'.*inside resize_IMG/",
        ),
        ([{"IMG": "a.png", "parsing_mask_IMG": "../m.png"}], "record 0: mask '../m.png'.*inside parsing_mask_IMG/"),
        ([{"IMG": "", "parsing_mask_IMG": "m.png"}], "record 0: image ''"),
    ],
)
def test_a_wrong_record_is_named(tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(DatasetError, match=message) as caught:
        read_records(written(tmp_path, content))
    assert str(tmp_path / RECORDS) in str(caught.value)


def test_no_list_and_a_torn_list(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=f"is no data set, it has no {RECORDS}"):
        read_records(tmp_path)
    (tmp_path / RECORDS).write_text('[{"resize_IMG": "a.p')
    with pytest.raises(DatasetError, match="is not JSON"):
        read_records(tmp_path)
    (tmp_path / RECORDS).write_bytes(b"\xff\xfe\x00bad")
    with pytest.raises(DatasetError, match="is not JSON"):
        read_records(tmp_path)


def test_a_list_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    write_records(tmp_path, [Record("a.png", "m.png")])
    with pytest.raises(TypeError):
        write_records(tmp_path, [Record("b.png", "m.png", extra={"bad": object()})])
    assert read_records(tmp_path) == [Record("a.png", "m.png")]
    assert [p.name for p in tmp_path.iterdir()] == [RECORDS]

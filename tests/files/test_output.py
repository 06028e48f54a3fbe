"""What is written: complete, never over something else, and saying what it is."""

from __future__ import annotations

import json
import math
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from consistentid.errors import InputError
from consistentid.files.output import DIGITAL_SOURCE_TYPE, encode_json, encode_png, read_record, versions
from consistentid.files.writing import check_folder, next_free, replacing, save_new

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 30, 3), np.uint8))


def test_png_carries_record_and_ai_mark(tmp_path: Path) -> None:
    record = {"prompt": 'Zoë & <a "red" hat> 帽子', "seed": 7, "likeness": 0.5, "versions": versions()}
    path = save_new(tmp_path / "a.png", encode_png(PICTURE, record))
    assert read_record(path) == record
    with Image.open(path) as image:
        image.load()
        assert np.array_equal(np.asarray(image), np.asarray(PICTURE))
        assert DIGITAL_SOURCE_TYPE in image.info["XML:com.adobe.xmp"]
        assert "Zoë &amp; &lt;a" in image.info["XML:com.adobe.xmp"]
        assert image.info["Description"] == record["prompt"]
        assert image.info["Software"].startswith("consistentid ")


def test_unmeasured_likeness_becomes_null(tmp_path: Path) -> None:
    record = {"likeness": math.nan, "pictures": [{"likeness": math.nan}, {"likeness": 1.0}]}
    expected = {"likeness": None, "pictures": [{"likeness": None}, {"likeness": 1.0}]}
    assert read_record(save_new(tmp_path / "a.png", encode_png(PICTURE, record))) == expected
    assert json.loads(encode_json(record)) == expected


def test_read_record_refuses_other_files(tmp_path: Path) -> None:
    PICTURE.save(tmp_path / "plain.png")
    (tmp_path / "text.png").write_text("no picture")
    for name in ("plain.png", "text.png", "absent.png"):
        with pytest.raises(InputError, match=name):
            read_record(tmp_path / name)


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    names = [save_new(tmp_path / "a.png", bytes([number])).name for number in range(3)]
    assert names == ["a.png", "a-2.png", "a-3.png"]
    assert [(tmp_path / name).read_bytes() for name in names] == [b"\0", b"\1", b"\2"]
    (tmp_path / "b.png").symlink_to(tmp_path / "nowhere")
    assert next_free(tmp_path / "b.png").name == "b-2.png"


def test_two_runs_in_one_folder_never_share_a_name(tmp_path: Path) -> None:
    threads = [threading.Thread(target=save_new, args=(tmp_path / "a.png", bytes([n]))) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(path.read_bytes() for path in tmp_path.iterdir()) == [bytes([n]) for n in range(16)]


def test_a_failed_write_leaves_nothing_and_keeps_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "who.safetensors"
    target.write_bytes(b"old")

    def fill_the_disk() -> None:
        with replacing(target) as temporary:
            temporary.write_bytes(b"half")
            Path("/dev/full").write_bytes(b"x")

    with pytest.raises(InputError, match="disk is full; free some space"):
        fill_the_disk()
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]

    for wrong in (target / "below.safetensors", target / "far" / "below.safetensors"):
        with pytest.raises(InputError, match="cannot be written"), replacing(wrong) as temporary:
            temporary.write_bytes(b"never")

    def stop() -> None:
        with replacing(target) as temporary:
            temporary.write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop()
    assert list(tmp_path.iterdir()) == [target]


def test_folder_is_checked_before_the_work_and_made_only_by_the_first_file(tmp_path: Path) -> None:
    folder = check_folder(tmp_path / "deep" / "out")
    assert list(tmp_path.iterdir()) == []
    assert save_new(folder / "a.txt", b"1").read_bytes() == b"1"
    with pytest.raises(InputError, match=r"a\.txt: is a file"):
        check_folder(folder / "a.txt")
    with pytest.raises(InputError, match=r"a\.txt: is a file"):
        check_folder(folder / "a.txt" / "below")
    with pytest.raises(InputError, match=r"/proc/results: cannot be written \(.+\); choose another folder"):
        check_folder("/proc/results")
    with pytest.raises(InputError, match="MB are free"):
        check_folder(tmp_path, megabytes=1 << 40)
    with pytest.raises(InputError, match="cannot be written"):
        save_new("/proc/results/a.png", b"1")

"""`consistentid dataset draw`: a whole, true, repeatable data set, or one clear line."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from consistentid.cli import main
from consistentid.data.records import read_records
from consistentid.drawn import dataset as module
from consistentid.drawn.dataset import Drawing, draw_dataset
from consistentid.drawn.portraits import draw_groups
from consistentid.errors import InputError
from consistentid.files.claims import LOCK
from consistentid.files.writing import UNFINISHED

SMALL = Drawing(people=3, scenes=2, size=48, split="test", seed=4)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def run(*args: object) -> Result:
    return CliRunner().invoke(main, ["dataset", "draw", *map(str, args)])


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small") / "set"
    summary = draw_dataset(SMALL, folder, photos=True)
    assert (summary["pictures"], summary["drawn"]) == (6, 6)
    return folder


def test_the_layout(small: Path) -> None:
    names = [f"test-4-0000{p}/0{s}" for p in range(3) for s in range(2)]
    expected = {"JSON_all.json", "drawing.json", LOCK}
    expected |= {f"{kind}/{n}.png" for kind in ("resize_IMG", "parsing_mask_IMG") for n in names}
    expected |= {f"photos/{n}.jpg" for n in names}
    assert set(contents(small)) == expected


def test_the_records_are_true(small: Path) -> None:
    records = read_records(small)
    assert [r.person for r in records] == [f"test-4-0000{p}" for p in (0, 0, 1, 1, 2, 2)]
    portraits = draw_groups(SMALL.groups(range(6)), SMALL.size)
    for i, record in enumerate(records):
        files = record.files(small)
        picture, mask = Image.open(files["image"]), Image.open(files["mask"])
        assert (picture.mode, mask.mode, picture.size, mask.size) == ("RGB", "L", (48, 48), (48, 48))
        np.testing.assert_array_equal(np.asarray(mask), portraits.labels[i].numpy())
        truth = portraits.images[i].permute(1, 2, 0).numpy() * 255
        np.testing.assert_allclose(np.asarray(picture), truth, atol=1)
        np.testing.assert_allclose(record.extra["landmarks"], portraits.landmarks[i, 0].numpy(), atol=0.01)
        np.testing.assert_allclose(record.extra["box"], portraits.boxes[i, 0].numpy(), atol=0.01)
        assert record.caption
        assert " nose" in record.face_caption
        photo = Image.open(small / "photos" / record.image.replace(".png", ".jpg"))
        assert photo.format == "JPEG"
        assert np.abs(np.asarray(photo).astype(float) - truth).mean() < 6
    assert "embedding" not in records[0].files(small)


def test_the_same_again_changes_nothing(small: Path) -> None:
    before = contents(small)
    stamps = {p: p.stat().st_mtime_ns for p in small.rglob("*")}
    assert draw_dataset(SMALL, small, photos=True)["drawn"] == 0
    assert contents(small) == before
    assert {p: p.stat().st_mtime_ns for p in small.rglob("*")} == stamps


def test_more_people_do_not_change_the_first(small: Path, tmp_path: Path) -> None:
    draw_dataset(replace(SMALL, people=2), tmp_path / "two")
    two, three = contents(tmp_path / "two"), contents(small)
    pictures = {name for name in two if name.endswith(".png")}
    assert len(pictures) == 8
    assert all(two[name] == three[name] for name in pictures)
    assert read_records(tmp_path / "two") == read_records(small)[:4]


def test_photos_are_added_to_a_set_without(small: Path, tmp_path: Path) -> None:
    draw_dataset(SMALL, tmp_path / "set")
    assert not (tmp_path / "set/photos").exists()
    draw_dataset(SMALL, tmp_path / "set", photos=True)
    assert contents(tmp_path / "set") == contents(small)


def test_an_interrupted_run_goes_on(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BLOCK_PIXELS", 2 * 48**2)
    folder = tmp_path / "set"
    done = []

    def stop_at_four(count: int, total: int) -> None:
        done.append((count, total))
        if count == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        draw_dataset(SMALL, folder, photos=True, progress=stop_at_four)
    assert done == [(2, 6), (4, 6)]
    assert not (folder / "JSON_all.json").exists()
    # What a kill in the middle of writing leaves: a picture without its mask, a photo half written.
    (folder / "parsing_mask_IMG/test-4-00001/01.png").unlink()
    (folder / f"photos/test-4-00001/{UNFINISHED}01.jpg").write_bytes(b"\xff\xd8torn")
    done.clear()
    summary = draw_dataset(SMALL, folder, photos=True, progress=lambda *p: done.append(p))
    assert (summary["drawn"], summary["pictures"]) == (3, 6)
    assert done == [(2, 6), (4, 6), (6, 6)]
    assert contents(folder) == contents(small)


def test_records_that_were_edited_stay(tmp_path: Path) -> None:
    one = replace(SMALL, people=1, scenes=1)
    draw_dataset(one, tmp_path / "set")
    (tmp_path / "set/JSON_all.json").write_text("[]")
    draw_dataset(one, tmp_path / "set")
    assert (tmp_path / "set/JSON_all.json").read_text() == "[]"


def test_another_set_is_not_mixed_in(small: Path, tmp_path: Path) -> None:
    before = contents(small)
    with pytest.raises(
        InputError, match="holds another drawn data set, with people 3 instead of 4, seed 4 instead of 0"
    ):
        draw_dataset(replace(SMALL, people=4, seed=0), small)
    assert contents(small) == before
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(InputError, match="is not empty, and holds no drawn data set; name a new folder"):
        draw_dataset(SMALL, tmp_path)
    with pytest.raises(InputError, match=r"letter\.txt: is a file"):
        draw_dataset(SMALL, tmp_path / "letter.txt")
    assert contents(tmp_path) == {"letter.txt": b"dear"}
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn/drawing.json").write_text('{"people"')
    with pytest.raises(InputError, match=r"torn/drawing\.json: does not tell of any drawn data set, or is damaged"):
        draw_dataset(SMALL, tmp_path / "torn")


def test_the_largest_size(tmp_path: Path) -> None:
    draw_dataset(Drawing(1, 1, size=1024, split="test", seed=4), tmp_path / "large")
    [record] = read_records(tmp_path / "large")
    large = Image.open(record.files(tmp_path / "large")["image"])
    assert large.size == (1024, 1024)
    small = (
        draw_groups(replace(SMALL, people=1, scenes=1).groups(range(1)), 64).images[0].permute(1, 2, 0).numpy() * 255
    )
    shrunk = np.asarray(large.resize((64, 64), Image.Resampling.BOX)).astype(float)
    assert np.abs(shrunk - small).mean() < 8


def test_several_people_in_a_picture(tmp_path: Path) -> None:
    drawing = replace(SMALL, people_per_picture=3)
    draw_dataset(drawing, tmp_path / "set")
    records = read_records(tmp_path / "set")
    portraits = draw_groups(drawing.groups(range(6)), drawing.sides)
    for i, record in enumerate(records):
        files = record.files(tmp_path / "set")
        assert Image.open(files["image"]).size == (96, 48)
        np.testing.assert_array_equal(np.asarray(Image.open(files["mask"])), portraits.labels[i].numpy())
        people = record.extra["people"]
        assert record.person is None
        assert {one["person"] for one in people} == {f"test-4-0000{p}" for p in range(3)}
        assert [one["place"] for one in people] == ["on the left", "in the middle", "on the right"]
        for k, one in enumerate(people):
            np.testing.assert_allclose(one["landmarks"], portraits.landmarks[i, k].numpy(), atol=0.01)
            np.testing.assert_allclose(one["box"], portraits.boxes[i, k].numpy(), atol=0.01)
            assert one["caption"] in record.caption
            assert " nose" in one["face_caption"]


# The command


def test_the_command(small: Path, tmp_path: Path) -> None:
    options = ("--people", 3, "--scenes", 2, "--size", 48, "--split", "test", "--seed", 4, "--photos")
    result = run(*options, "--out", tmp_path / "set", "--json")
    assert result.exit_code == 0, result.output
    assert contents(tmp_path / "set") == contents(small)
    assert json.loads(result.stdout) == {
        "folder": str(tmp_path / "set"),
        "records": str(tmp_path / "set/JSON_all.json"),
        "photos": str(tmp_path / "set/photos"),
        "pictures": 6,
        "drawn": 6,
        "people": 3,
        "scenes": 2,
        "size": 48,
        "split": "test",
        "seed": 4,
        "people_per_picture": 1,
    }
    again = run(*options, "--out", tmp_path / "set")
    assert again.exit_code == 0
    assert again.stdout.splitlines() == [
        f"{tmp_path / 'set/JSON_all.json'}  6 pictures, 0 of them drawn now",
        str(tmp_path / "set/photos"),
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--people", 0), "people 0: must be at least 1 and at most 1000000"),
        (("--scenes", -1), "scenes -1: must be at least 1"),
        (("--size", 16), "size 16: must be at least 32 and at most 1024"),
        (("--size", 2048), "size 2048: must be at least 32 and at most 1024"),
        (("--seed", -1), "seed -1: must be at least 0"),
        (("--split", "dev"), "split 'dev': is unknown; the splits are train, validation, test"),
        (("--people", "many"), "'many' is not a valid integer"),
        (("--people-per-picture", 4), "people_per_picture 4: must be at least 1 and at most 3"),
        (("--people", 2, "--people-per-picture", 3), "people 2: too few for 3 in a picture; draw more people"),
        (
            ("--people-per-picture", 2, "--photos"),
            "photos of 2 people: they lie in one folder a person; leave them out",
        ),
    ],
)
def test_bad_options_are_one_line_and_write_nothing(options: tuple[object, ...], message: str, tmp_path: Path) -> None:
    result = run(*options, "--out", tmp_path / "set")
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_set_that_does_not_fit_the_disk_is_refused_at_once(tmp_path: Path) -> None:
    result = run("--people", 1_000_000, "--scenes", 10_000, "--size", 1024, "--out", tmp_path / "set")
    assert result.exit_code == 2
    assert "MB are needed" in result.stderr
    assert not list(tmp_path.iterdir())


def test_help_needs_no_torch() -> None:
    code = (
        "import sys\nfrom consistentid.cli import main\n"
        "try: main(['dataset', 'draw', '--help'])\n"
        "except SystemExit: sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0

"""`consistentid dataset build`: every good picture becomes a sample, every other one is listed, whatever happens."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hostile import fill, photos
from PIL import Image

from consistentid.adapter.prompt import find_parts
from consistentid.cli import main
from consistentid.data.build.annotate import PLAIN_CAPTION
from consistentid.data.build.job import Job
from consistentid.data.build.plan import scan
from consistentid.data.build.run import build_dataset
from consistentid.data.check import check_dataset
from consistentid.data.open import open_dataset
from consistentid.data.records import read_records
from consistentid.errors import InputError
from consistentid.files.writing import UNFINISHED
from consistentid.pipeline.pipeline import ConsistentIDPipeline


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def run(*args: object) -> Result:
    return CliRunner().invoke(main, ["dataset", *map(str, args)])


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three people in three scenes; one picture is there twice, the copy smaller and compressed again."""
    folder = tmp_path_factory.mktemp("drawn")
    first = photos(folder, people=3, scenes=3)[0]
    Image.open(first).resize((80, 80)).save(first.with_name("copy.webp"), quality=60)
    return folder


@pytest.fixture(scope="module")
def job(drawn: Path) -> Job:
    return Job(drawn / "photos", drawn / "set", size=64, batch=4)


@pytest.fixture(scope="module")
def built(job: Job) -> Path:
    report = build_dataset(job, workers=1)
    assert (report["pictures"], report["built"], report["done_now"], report["rejected"]) == (10, 10, 10, {})
    assert report["people"] == 3
    assert report["near_duplicates"] == {"test-0-00000/copy": "test-0-00000/00"}
    return job.out


def test_pictures_labels_and_words_belong_together(drawn: Path, built: Path) -> None:
    truth = {record.key: record for record in read_records(drawn)}
    analyzer = ConsistentIDPipeline.from_preset("drawn", device="cpu").analyzer
    samples = [sample for sample in open_dataset(built) if sample.key in truth]
    assert [sample.key for sample in samples] == sorted(truth)
    agreement, displaced = [], []
    for sample in samples:
        known = truth[sample.key]
        assert sample.picture.shape == (64, 64, 3)
        assert (sample.caption, sample.person) == (known.caption, known.key.split("/")[0])
        assert sample.face_caption.startswith(known.face_caption.rstrip("."))
        np.testing.assert_array_equal(analyzer.parser.parse(Image.fromarray(sample.picture)), sample.labels)
        # Faces fill these pictures, so nothing was cut off, and the true labels lie where they were.
        files = known.files(drawn)
        whole = Image.open(files["image"]).resize((64, 64), Image.Resampling.LANCZOS)
        assert np.abs(np.asarray(whole).astype(float) - sample.picture).mean() < 6
        labels = np.asarray(Image.open(files["mask"]).resize((64, 64), Image.Resampling.NEAREST))
        agreement.append((labels == sample.labels).mean())
        displaced.append(np.abs(sample.landmarks - np.array(known.extra["landmarks"]) * 64 / 96))
        [face, *_] = analyzer.analyze(Image.open(drawn / "photos" / f"{sample.key}.jpg").convert("RGB"))
        assert face.embedding @ sample.embedding > 0.999
        assert find_parts(sample.face_caption)
    assert np.mean(agreement) > 0.8
    assert np.median(displaced) < 1


def test_the_layout_is_portable_and_sound(built: Path) -> None:
    text = (built / "JSON_all.json").read_text(encoding="utf-8")
    assert str(built) not in text
    [first, *_] = json.loads(text)
    assert first["resize_IMG"] == first["parsing_mask_IMG"] == "test-0-00000/00.png"
    assert first["id_embed_file_resize"] == "test-0-00000/00.bin"
    assert first["source"] == "test-0-00000/00.jpg"
    assert check_dataset(built)["faults"] == []


def test_the_page_stands_alone(built: Path) -> None:
    page = (built / "summary.html").read_text(encoding="utf-8")
    assert "http://" not in page
    assert "https://" not in page
    assert page.count("data:image/webp;base64,") == 2 * 10 + 2  # each picture with its mask, and the pair of copies
    assert page.count("<svg") == len(json.loads((built / "report.json").read_text())["histograms"])


def test_the_same_again_changes_nothing(job: Job, built: Path) -> None:
    before = contents(built)
    assert build_dataset(job, workers=1)["done_now"] == 0
    assert contents(built) == before


def test_an_interrupted_run_goes_on_to_the_same_bytes(job: Job, built: Path, tmp_path: Path) -> None:
    again = replace(job, out=tmp_path / "set")
    done = []

    def stop(count: int, total: int) -> None:
        done.append((count, total))
        if count == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_dataset(again, workers=1, progress=stop)
    assert done == [(0, 10), (4, 10), (8, 10)]
    assert not (again.out / "JSON_all.json").exists()
    # What a kill leaves in the middle of a shard: pictures without a result, files half written.
    (again.out / "build/000001.json").unlink()
    (again.out / f"resize_IMG/test-0-00001/{UNFINISHED}00.png").write_bytes(b"\x89PNG torn")
    (again.out / f"{UNFINISHED}all.json").write_text("[")
    done.clear()
    assert build_dataset(again, workers=1, progress=lambda *p: done.append(p))["done_now"] == 6
    assert done == [(4, 10), (8, 10), (10, 10)]
    assert contents(again.out) == contents(built)


def test_pictures_come_and_go(job: Job, built: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "photos", tmp_path / "set"
    shutil.copytree(job.photos, folder)  # with their times, so that they count as the same
    shutil.copytree(built, out)
    moved = replace(job, photos=folder, out=out)
    shutil.copy(folder / "test-0-00002/00.jpg", folder / "alone.jpg")
    (folder / "alone.txt").write_text("a man in a boat\nHe has green eyes and a nose.\nnot read")
    (folder / "test-0-00000/copy.webp").unlink()
    report = build_dataset(moved, workers=1)
    assert (report["done_now"], report["built"], report["pictures"]) == (1, 10, 10)
    assert not (out / "resize_IMG/test-0-00000/copy.png").exists()
    records = {record.key: record for record in read_records(out)}
    assert "test-0-00000/copy" not in records
    assert (records["alone"].person, records["alone"].caption) == (None, "a man in a boat")
    assert records["alone"].face_caption.startswith("He has green eyes and a nose.")
    before, after = contents(built / "resize_IMG"), contents(out / "resize_IMG")
    assert all(after[name] == content for name, content in before.items() if "copy" not in name)
    # The text beside the picture decides; without one and without records, plain words stand in.
    (folder / "alone.txt").unlink()
    os.utime(folder / "alone.jpg", (1, 1))
    assert build_dataset(moved, workers=1)["done_now"] == 1
    again = {record.key: record for record in read_records(out)}["alone"]
    assert again.caption == PLAIN_CAPTION
    assert again.face_caption.startswith("The person has one face")


def test_hostile_files_are_listed_and_the_others_built(drawn: Path, tmp_path: Path) -> None:
    good = sorted((drawn / "photos").rglob("0*.jpg"))
    goods, bads = fill(tmp_path / "raw", good, bad=28)
    (tmp_path / "raw/.hidden").write_text("is nobody's business")
    result = run("build", tmp_path / "raw", "--out", tmp_path / "set", "--size", 64, "--workers", 1, "--json")
    assert result.exit_code == 0, result.output
    check_built(tmp_path / "set", goods, bads)
    report = json.loads(result.stdout)
    assert (report["built"], sum(report["rejected"].values())) == (len(goods), len(bads))
    assert {"unreadable", "no face", "photograph"} <= set(report["rejected"])
    assert check_dataset(tmp_path / "set")["faults"] == []


def check_built(out: Path, goods: set[str], bads: set[str]) -> None:
    def plain(path: str) -> str:
        return os.fsencode(path).decode("utf-8", "replace")

    assert {record.extra["source"] for record in read_records(out)} == set(map(plain, goods))
    rejected = [json.loads(line) for line in (out / "rejected.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {line["file"] for line in rejected} == set(map(plain, bads))
    assert all(line["reason"] for line in rejected)


def test_names_that_collide_are_kept_apart(drawn: Path, tmp_path: Path) -> None:
    one, two, *_ = sorted((drawn / "photos").rglob("0*.jpg"))
    (tmp_path / "raw").mkdir()
    for name, source in (("a.jpg", one), ("A.JPG", two), ("a.png", two)):
        shutil.copy(source, tmp_path / "raw" / name)
    build_dataset(Job(tmp_path / "raw", tmp_path / "set", size=64), workers=1)
    records = read_records(tmp_path / "set")
    assert [record.extra["source"] for record in records] == ["A.JPG", "a.jpg", "a.png"]
    assert len({record.image.casefold() for record in records}) == 3
    assert check_dataset(tmp_path / "set")["faults"] == []


def test_another_person_in_a_folder_is_marked(drawn: Path, tmp_path: Path) -> None:
    ada, *others = sorted(path for path in (drawn / "photos").iterdir() if path.is_dir())
    shutil.copytree(ada, tmp_path / "raw/ada", ignore=shutil.ignore_patterns("copy*"))
    shutil.copy(next(others[0].glob("*.jpg")), tmp_path / "raw/ada/stranger.jpg")
    report = build_dataset(Job(tmp_path / "raw", tmp_path / "set", size=64), workers=1)
    assert report["strangers"] == ["ada/stranger"]
    marked = [record.key for record in read_records(tmp_path / "set") if record.extra.get("stranger")]
    assert marked == report["strangers"]


def test_linked_folders_are_entered_once(tmp_path: Path) -> None:
    (tmp_path / "raw/ada").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    for folder in ("raw/ada", "elsewhere"):
        (tmp_path / folder / "1.jpg").write_bytes(b"x")
    (tmp_path / "raw/ada/back").symlink_to(tmp_path / "raw")
    (tmp_path / "raw/bob").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "raw/bobby").symlink_to(tmp_path / "elsewhere")
    files, unlisted = scan(tmp_path / "raw")
    assert [path for path, *_ in files] == ["ada/1.jpg", "bob/1.jpg"]
    assert set(unlisted) == {"ada/back", "bobby"}


def test_what_cannot_be_built_is_one_line(drawn: Path, built: Path, job: Job, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/letter.jpg").write_text("dear")
    before = contents(built)
    for args, words in (
        ((tmp_path / "absent", "--out", tmp_path / "o"), "absent: is no folder"),
        ((tmp_path / "empty", "--out", tmp_path / "o"), "empty: holds no files"),
        ((job.photos, "--out", job.photos / "set"), "lies in the folder of the pictures"),
        ((job.photos, "--out", tmp_path), "is not empty, and holds no data set that was built"),
        (
            (job.photos, "--out", built, "--size", 96, "--batch", 4),
            "data set that was built, with size 64 instead of 96",
        ),
        ((job.photos, "--out", tmp_path / "o", "--size", 8), "size=8 is not allowed; give 32 to 2048"),
        ((job.photos, "--out", tmp_path / "o", "--preset", "none"), "unknown preset 'none'"),
        ((tmp_path / "texts", "--out", tmp_path / "o", "--workers", 1), "none of 1 files became a picture"),
    ):
        result = run("build", *args)
        assert result.exit_code == 2, result.output
        assert words in result.stderr
        assert result.stderr.count("\n") == 1
    assert contents(built) == before
    with pytest.raises(InputError, match="engine='slurm' is unknown; the engines are local, ray"):
        build_dataset(job, engine="slurm")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a process that is at work at once")
def test_a_process_that_is_killed_at_random_moments(job: Job, built: Path, tmp_path: Path) -> None:
    again = replace(job, out=tmp_path / "set")
    started = time.monotonic()
    build_dataset(replace(job, out=tmp_path / "calm"), workers=1)
    longest = time.monotonic() - started
    context = multiprocessing.get_context("fork")
    for moment in moments(5, 0, longest):
        process = context.Process(target=build_dataset, args=(again,), kwargs={"workers": 1})
        process.start()
        process.join(moment)
        process.kill()
        process.join()
    build_dataset(again, workers=1)
    assert contents(again.out) == contents(built)


# ------------------------------------------------------------------------------------------- processes of their own


@pytest.mark.slow
def test_several_processes_are_killed_and_give_the_same_bytes(job: Job, built: Path, tmp_path: Path) -> None:
    again = replace(job, out=tmp_path / "set")
    kill_until_done(again, kills=2, seed=0, longest=20)
    assert contents(again.out) == contents(built)


@pytest.mark.slow
def test_ray_gives_the_same_bytes(job: Job, built: Path, tmp_path: Path) -> None:
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        report = build_dataset(replace(job, out=tmp_path / "set"), engine="ray", workers=2)
    finally:
        ray.shutdown()
    assert report["done_now"] == 10
    assert contents(tmp_path / "set") == contents(built)


@pytest.mark.slow
def test_a_thousand_hostile_files_among_a_thousand_good_ones(tmp_path: Path) -> None:
    """Good is what is built when alone: a few drawings are taken for photographs, or their face is missed."""
    drawn = photos(tmp_path / "drawn", people=330, scenes=4, size=64)
    alone = Job(tmp_path / "drawn/photos", tmp_path / "alone", size=64)
    build_dataset(alone)
    usable = {record.extra["source"] for record in read_records(alone.out)}
    good = [path for path in drawn if f"{path.parent.name}/{path.name}" in usable][:1000]
    goods, bads = fill(tmp_path / "raw", good, bad=1000)
    assert (len(goods), len(bads)) == (1000, 1000)
    job = Job(tmp_path / "raw", tmp_path / "set", size=64)
    kill_until_done(job, kills=20, seed=1, longest=20)
    check_built(job.out, goods, bads)
    build_dataset(replace(job, out=tmp_path / "calm"))
    assert contents(job.out) == contents(tmp_path / "calm")


def kill_until_done(job: Job, kills: int, seed: int, longest: float) -> None:
    """Kill the command at random moments so many times, then let it finish."""
    options = ["--out", job.out, "--size", job.size, "--batch", job.batch, "--workers", 2]
    command = [str(x) for x in (sys.executable, "-m", "consistentid", "dataset", "build", job.photos, *options)]
    for moment in moments(kills, seed, longest):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(moment)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    subprocess.run(command, check=True, capture_output=True)


def moments(count: int, seed: int, longest: float) -> Iterator[float]:
    """Seconds after the start, from at once to the whole time it takes."""
    generator = random.Random(seed)
    return (generator.uniform(0, longest) for _ in range(count))

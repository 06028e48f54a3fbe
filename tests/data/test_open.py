"""Data sets are read the same from files and from shards, in an order that can be gone on with."""

from __future__ import annotations

import json
import pickle
import shutil
import tarfile
from collections import Counter
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from consistentid.cli import main
from consistentid.data.dataset import Sample, epoch_order, stream
from consistentid.data.open import open_dataset
from consistentid.data.records import Record, write_records
from consistentid.data.shards import pack_dataset
from consistentid.errors import DatasetError, InputError
from consistentid.files.claims import LOCK
from consistentid.files.writing import UNFINISHED


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def run(*args: object) -> Result:
    return CliRunner().invoke(main, ["dataset", *map(str, args)])


def write(folder: Path, count: int = 7) -> Path:
    """A data set of noise, with everything that a record may and may not have."""
    random = np.random.default_rng(0)
    records = []
    for number in range(count):
        known = number % 3 != 2
        name = f"p{number // 2}/ü.{number}"
        extra = {"landmarks": random.uniform(0, 40, (5, 2)).tolist()} if known else {}
        record = Record(
            f"{name}.{'jpg' if number % 2 else 'png'}", f"{name}.png", f"picture {number}", "a nose", extra=extra,
            embedding=f"{name}.bin" if known else None, person=f"p{number // 2}" if known else None,
        )  # fmt: skip
        files = record.files(folder)
        for file in files.values():
            file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (48, 40, 3), np.uint8)).save(files["image"])
        Image.fromarray(random.integers(0, 19, (48, 40), np.uint8)).save(files["mask"])
        if known:
            face = torch.randn(1, 512, generator=torch.Generator().manual_seed(number))
            torch.save(face / face.norm(), files["embedding"])
        records.append(record)
    write_records(folder, records)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("reading") / "set")


@pytest.fixture(scope="module")
def shards(folder: Path) -> Path:
    out = folder.parent / "shards"
    assert pack_dataset(folder, out, samples=3) == {"folder": str(out), "samples": 7, "shards": 3, "packed_now": 3}
    return out


def assert_same(one: Sample, other: Sample) -> None:
    for name, value in vars(one).items():
        np.testing.assert_array_equal(value, getattr(other, name), err_msg=name)


def test_samples_hold_what_the_files_hold(folder: Path) -> None:
    data = open_dataset(folder)
    assert (len(data), data.keys[3], data.people[3]) == (7, "p1/ü.3", "p1")
    sample = data[4]
    assert (sample.key, sample.caption, sample.face_caption, sample.person) == ("p2/ü.4", "picture 4", "a nose", "p2")
    np.testing.assert_array_equal(sample.picture, np.asarray(Image.open(folder / "resize_IMG/p2/ü.4.png")))
    np.testing.assert_array_equal(sample.labels, np.asarray(Image.open(folder / "parsing_mask_IMG/p2/ü.4.png")))
    saved = torch.load(folder / "all_faceID/p2/ü.4.bin", weights_only=True)
    np.testing.assert_allclose(sample.embedding, saved[0].numpy(), atol=1e-7)
    assert sample.landmarks is not None
    assert sample.landmarks.shape == (5, 2)
    bare = data[2]
    assert (bare.embedding, bare.person, bare.landmarks) == (None, None, None)
    with pytest.raises(IndexError):
        data[7]


def test_shards_give_the_same_samples(folder: Path, shards: Path) -> None:
    plain, packed = open_dataset(folder), pickle.loads(pickle.dumps(open_dataset(shards)))
    assert (packed.keys, packed.people) == (plain.keys, plain.people)
    for index in range(len(plain)):
        assert_same(plain[index], packed[index])
        assert packed.record(index) == plain.record(index)
    assert_same(plain[-1], packed[-1])
    with pytest.raises(IndexError):
        packed[7]
    assert packed.groups == [range(0, 3), range(3, 6), range(6, 7)]


def test_shards_are_what_webdataset_reads(folder: Path, shards: Path) -> None:
    """Files of a sample stand together and share the name up to the first dot."""
    with tarfile.open(shards / "shard-000001.tar") as shard:
        names = shard.getnames()
        fifth = json.load(shard.extractfile("000000004.json"))  # type: ignore[arg-type]
        picture = shard.extractfile("000000004.png").read()  # type: ignore[union-attr]
    assert names[:4] == [f"000000003.{suffix}" for suffix in ("jpg", "mask.png", "embedding.bin", "json")]
    assert [name.split(".")[0] for name in names] == sorted(name.split(".")[0] for name in names)
    assert (fifth["key"], fifth["caption"], fifth["person"]) == ("p2/ü.4", "picture 4", "p2")
    assert picture == (folder / "resize_IMG/p2/ü.4.png").read_bytes()


def test_a_data_loader_reads_them(shards: Path) -> None:
    loader = torch.utils.data.DataLoader(open_dataset(shards), batch_size=None)  # type: ignore[arg-type]
    assert [sample.key for sample in loader] == [f"p{n // 2}/ü.{n}" for n in range(7)]


def test_an_interrupted_packing_goes_on(folder: Path, shards: Path, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack_dataset(folder, tmp_path / "shards", samples=3, progress=stop)
    assert not (tmp_path / "shards/index.parquet").exists()
    (tmp_path / f"shards/{UNFINISHED}2.tar").write_bytes(b"torn")
    done: list[tuple[int, int]] = []
    summary = pack_dataset(folder, tmp_path / "shards", samples=3, progress=lambda *p: done.append(p))
    assert (summary["packed_now"], done) == (1, [(3, 7), (6, 7), (7, 7)])
    assert contents(tmp_path / "shards") == contents(shards)


def test_packing_refuses_what_would_go_wrong(folder: Path, shards: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds another packed data set, with samples 3 instead of 4"):
        pack_dataset(folder, shards, samples=4)
    with pytest.raises(InputError, match="is not empty, and holds no packed data set"):
        pack_dataset(folder, folder)
    with pytest.raises(InputError, match="samples=0 is not allowed"):
        pack_dataset(folder, tmp_path / "shards", samples=0)
    shutil.copytree(folder, tmp_path / "torn")
    (tmp_path / "torn/all_faceID/p2/ü.4.bin").unlink()
    with pytest.raises(DatasetError, match=r"ü\.4\.bin: no such file"):
        pack_dataset(tmp_path / "torn", tmp_path / "shards", samples=3)
    assert sorted(path.name for path in (tmp_path / "shards").iterdir()) == [LOCK, "pack.json", "shard-000000.tar"]


def test_the_pack_command(folder: Path, shards: Path, tmp_path: Path) -> None:
    result = run("pack", folder, "--samples", 3, "--out", tmp_path / "shards", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["shards"] == 3
    assert contents(tmp_path / "shards") == contents(shards)
    again = run("pack", folder, "--samples", 3, "--out", tmp_path / "shards")
    assert again.stdout == f"{tmp_path / 'shards/index.parquet'}  7 samples in 3 shards\n"


@pytest.mark.parametrize("name", ["http:", "s3:", "file:", "a%20b", "a?b=c#d"])
def test_folders_whose_names_look_like_addresses(
    folder: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("pack", folder, "--samples", 3, "--out", f"{name}/127.0.0.1:9/x").exit_code == 0
    assert run("check", f"{name}/127.0.0.1:9/x").exit_code == run("check", folder).exit_code
    assert len(open_dataset(Path(f"{name}/127.0.0.1:9/x"))) == len(open_dataset(folder))


@pytest.mark.parametrize(
    ("column", "value"), [("shard", 3), ("key", None), ("image_offset", "x"), ("image_length", None), ("extra", 1.5)]
)
def test_an_index_of_other_columns(shards: Path, tmp_path: Path, column: str, value: object) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    broken = shutil.copytree(shards, tmp_path / "broken")
    table = parquet.read_table(broken / "index.parquet").to_pylist()
    whole = type(parquet.read_table(broken / "index.parquet"))
    parquet.write_table(whole.from_pylist([row | {column: value} for row in table]), broken / "index.parquet")
    result = run("check", broken)
    assert result.exit_code == 2, result.output
    assert result.stderr.count("error: ") == 1
    assert "Traceback" not in result.stderr
    parquet.write_table(whole.from_pylist(table).drop_columns([column]), broken / "index.parquet")
    assert "is no index of shards" in run("check", broken).stderr


def test_packing_does_not_go_on_with_a_shard_that_lost_samples(folder: Path, shards: Path, tmp_path: Path) -> None:
    torn = shutil.copytree(shards, tmp_path / "torn")
    shard = sorted(torn.glob("*.tar"))[1]
    shard.write_bytes(bytes(20_480))  # which is a tar file, of nothing
    with pytest.raises(DatasetError, match=r"shard-000001\.tar: lacks 000000003\..*; delete it and pack again"):
        pack_dataset(folder, torn, samples=3)


def test_broken_shards_are_named(shards: Path, tmp_path: Path) -> None:
    shutil.copytree(shards, tmp_path / "torn")
    data = open_dataset(tmp_path / "torn")
    path = tmp_path / "torn/shard-000001.tar"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DatasetError, match=r"shard-000001\.tar: ends too early"):
        data[5]
    path.unlink()
    with pytest.raises(DatasetError, match=r"shard-000001\.tar: no such file"):
        data[4]
    (tmp_path / "torn/index.parquet").write_bytes(b"PAR1")
    with pytest.raises(DatasetError, match=r"index\.parquet: is no index of shards"):
        open_dataset(tmp_path / "torn")
    with pytest.raises(DatasetError, match="is no data set"):
        open_dataset(tmp_path / "nothing")


@pytest.mark.parametrize("form", ["folder", "shards"])
def test_a_stream_goes_on_exactly_where_it_was(form: str, request: pytest.FixtureRequest) -> None:
    data = open_dataset(request.getfixturevalue(form))
    whole = list(islice(stream(data, seed=5), 24))
    assert [position for position, _ in whole[5:9]] == [(0, 6), (0, 7), (1, 1), (1, 2)]
    for stop in (1, 6, 7, 15):
        rest = list(islice(stream(data, 5, start=whole[stop - 1][0]), 24 - stop))
        assert [(p, s.key) for p, s in rest] == [(p, s.key) for p, s in whole[stop:]]
    keys = [sample.key for _, sample in whole]
    assert Counter(keys[:7]) == Counter(keys[7:14]) == Counter(data.keys)
    assert keys[:7] != keys[7:14]
    assert keys[:7] != [sample.key for _, sample in islice(stream(data, seed=6), 7)]


def test_several_readers_share_a_stream(shards: Path) -> None:
    data = open_dataset(shards)
    alone = {position: sample.key for position, sample in islice(stream(data, 1), 14)}
    shared = [dict(islice(stream(data, 1, rank=rank, world=2), 7)) for rank in range(2)]
    assert {p: sample.key for part in shared for p, sample in part.items()} == alone
    assert len(alone) == 14


def test_a_stream_stays_within_a_shard(shards: Path) -> None:
    data = open_dataset(shards)
    order = [index // 3 for index in epoch_order(data, seed=2, epoch=0).tolist()]
    assert sum(one != other for one, other in pairwise(order)) == 2

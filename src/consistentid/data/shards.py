"""Packed data sets: tar files in WebDataset's layout and a Parquet index that says where each file lies in them.

```
SHARDS/
├── shard-000000.tar    000000000.png  000000000.mask.png  000000000.embedding.bin  000000000.json  000000001.png ...
└── index.parquet       a row a sample: its record, its shard, and offset and length of each of its files
```

Anything that reads WebDataset reads the tar files alone. With the index, single samples are read without unpacking.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from itertools import groupby
from pathlib import Path, PureWindowsPath
from typing import Any, Final

from consistentid.data.dataset import Dataset, FolderDataset
from consistentid.data.records import RECORDS, Record
from consistentid.errors import DatasetError, InputError, first_line
from consistentid.files.claims import claimed
from consistentid.files.reading import check_file, parse_json
from consistentid.files.writing import check_folder, replacing

INDEX: Final = "index.parquet"

_SUFFIXES: Final = {"image": None, "mask": ".mask.png", "embedding": ".embedding.bin"}  # the picture keeps its own
_NOTE: Final = "pack.json"
_LARGEST: Final = 1 << 32  # bytes of an index


class ShardDataset(Dataset):
    """A packed data set; gives the same samples as the folder that it was packed from.

    Args:
        folder: holds index.parquet and the shards.

    Raises:
        DatasetError: the index is broken.
        InputError: pyarrow is not installed.
    """

    def __init__(self, folder: Path) -> None:
        parquet = _parquet()
        self.folder = folder
        try:
            # a stream, as some names of folders are addresses to Arrow
            with check_file(folder / INDEX, _LARGEST, what="index", error=DatasetError).open("rb") as stream:
                self._index = parquet.read_table(stream)
            schema = _schema()
            self._index = self._index.select(schema.names).cast(schema)
            self.keys = self._index["key"].to_pylist()
            self.people = self._index["person"].to_pylist()
            shards = self._index["shard"].to_pylist()
        except DatasetError:
            raise
        except Exception as error:  # a broken file makes Arrow raise nearly anything
            reason = first_line(error)
            raise DatasetError(f"{folder / INDEX}: is no index of shards ({reason}); pack the data set again") from None
        for name in set(shards):
            if name != PureWindowsPath(str(name)).name or name in ("", ".."):  # takes either slash, and drives
                raise DatasetError(
                    f"{folder / INDEX}: names the shard {name!r}, which is not in that folder; pack the data set again"
                )
        self._groups = [range(rows[0], rows[-1] + 1) for rows in _runs(shards)]

    @property
    def groups(self) -> list[range]:
        """The samples of each shard."""
        return self._groups

    def record(self, index: int) -> Record:
        """See `Dataset.record`."""
        row = self._row(index)
        fields = ("image", "mask", "caption", "face_caption", "embedding", "person")
        return Record(
            **{name: row[name] for name in fields},
            extra=parse_json(row["extra"], f"{self.folder / INDEX}: {row['key']}", DatasetError, dict),
        )

    def content(self, index: int, kind: str) -> bytes:
        """See `Dataset.content`."""
        row = self._row(index)
        path = check_file(self.folder / row["shard"], what="shard", error=DatasetError)
        start, length = row[f"{kind}_offset"], row[f"{kind}_length"]
        try:
            with path.open("rb") as shard:
                size = path.stat().st_size
                if None in (start, length) or not 0 <= start <= start + length <= size:  # before memory is asked for
                    raise DatasetError(f"{path}: ends too early; pack the data set again")
                shard.seek(start)
                return shard.read(length)
        except OSError as error:
            raise DatasetError(f"{path}: cannot be read ({error.strerror}); pack the data set again") from None

    def name(self, index: int, kind: str) -> str:
        """See `Dataset.name`."""
        return f"{self.folder / self._row(index)['shard']}: {kind} of {self.keys[index]}"

    def _row(self, index: int) -> dict[str, Any]:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        row: dict[str, Any] = self._index.slice(index % len(self), 1).to_pylist()[0]
        return row


def pack_dataset(
    source: Path, out: Path, *, samples: int = 1000, progress: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    """Pack a folder data set into shards; the same call again goes on where it was stopped.

    Args:
        source: holds JSON_all.json.
        out: new, empty, or holding the same pack.
        samples: of each shard.
        progress: called with (samples done, samples in all).

    Returns:
        "folder", "samples", "shards", "packed_now" (shards).

    Raises:
        DatasetError: the data set lacks files; nothing is half-written.
        InputError: a folder that holds something else or cannot be written, or pyarrow is not installed.
    """
    _parquet()
    if samples < 1:
        raise InputError(f"samples={samples} is not allowed; give at least 1")
    dataset = FolderDataset(source)
    check_folder(out)
    about = {"records": hashlib.sha256((source / RECORDS).read_bytes()).hexdigest(), "samples": samples}
    with claimed(out, "packed data set", about, note=_NOTE):
        return _pack_into(dataset, out, samples, progress)


def _pack_into(
    dataset: FolderDataset, out: Path, samples: int, progress: Callable[[int, int], None] | None
) -> dict[str, Any]:
    parquet = _parquet()
    import pyarrow

    rows: list[dict[str, Any]] = []
    packed = 0
    starts = range(0, len(dataset), samples)
    for number, start in enumerate(starts):
        path = out / f"shard-{number:06d}.tar"
        chosen = range(start, min(start + samples, len(dataset)))
        if not path.exists():
            with replacing(path) as temporary, tarfile.open(temporary, "w", format=tarfile.PAX_FORMAT) as shard:
                for index in chosen:
                    for name, content in _members(dataset, index):
                        member = tarfile.TarInfo(name)  # without date and owner, so that the same set gives same bytes
                        member.size = len(content)
                        shard.addfile(member, io.BytesIO(content))
            packed += 1
        rows += _indexed(dataset, chosen, path)
        if progress:
            progress(chosen.stop, len(dataset))
    with replacing(out / INDEX) as temporary, temporary.open("wb") as stream:
        parquet.write_table(pyarrow.Table.from_pylist(rows, schema=_schema()), stream)
    return {"folder": str(out), "samples": len(dataset), "shards": len(starts), "packed_now": packed}


def _schema() -> Any:
    """The columns of an index."""
    import pyarrow

    texts = ("key", "person", "caption", "face_caption", "image", "mask", "embedding", "extra", "shard")
    places = [f"{kind}_{what}" for kind in _SUFFIXES for what in ("offset", "length")]
    needed = {"key", "caption", "face_caption", "image", "mask", "extra"}
    columns = [pyarrow.field(name, pyarrow.string(), nullable=name not in needed) for name in texts]
    return pyarrow.schema([*columns, *((name, pyarrow.int64()) for name in places)])


def _members(dataset: FolderDataset, index: int) -> Iterator[tuple[str, bytes]]:
    """Names and contents of a sample's files in the shard."""
    record = dataset.record(index)
    for kind in record.files(dataset.folder):
        yield _member(record, index, kind), dataset.content(index, kind)
    yield f"{index:09d}.json", json.dumps({"key": record.key, **asdict(record)}, ensure_ascii=False).encode()


def _member(record: Record, index: int, kind: str) -> str:
    # WebDataset takes all up to the first dot for the sample's name: a number is safe whatever the picture is called.
    return f"{index:09d}{_SUFFIXES[kind] or Path(record.image).suffix.lower() or '.img'}"


def _indexed(dataset: FolderDataset, chosen: range, path: Path) -> Iterator[dict[str, Any]]:
    """Rows of the index for the samples of a shard."""
    try:
        with tarfile.open(path, "r:") as shard:
            places = {member.name: (member.offset_data, member.size) for member in shard}
    except (OSError, tarfile.TarError) as error:
        raise DatasetError(f"{path}: is no shard that can be read ({error}); delete it and pack again") from None
    for index in chosen:
        record = dataset.record(index)
        row = asdict(record) | {"key": record.key, "shard": path.name}
        row["extra"] = json.dumps(record.extra, ensure_ascii=False)
        for kind in record.files(dataset.folder):
            name = _member(record, index, kind)
            if name not in places:  # tar files of nothing but zeros, or cut between two members, can be read
                raise DatasetError(f"{path}: lacks {name}; delete it and pack again")
            row[f"{kind}_offset"], row[f"{kind}_length"] = places[name]
        yield row


def _runs(values: list[str]) -> Iterator[list[int]]:
    """Indices of neighbours that are equal."""
    for _, group in groupby(range(len(values)), key=values.__getitem__):
        yield list(group)


def _parquet() -> Any:
    try:
        import pyarrow.parquet
    except ImportError:
        raise InputError("packed data sets need pyarrow; install it with: pip install 'consistentid[data]'") from None
    return pyarrow.parquet

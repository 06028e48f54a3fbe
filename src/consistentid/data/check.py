"""Faults of a data set, all of them in one pass."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np

from consistentid.adapter.prompt import find_parts
from consistentid.data.dataset import Dataset, FolderDataset, read_embedding, read_labels, read_picture
from consistentid.data.open import open_dataset
from consistentid.data.records import RECORDS, Record, parse_record, read_items
from consistentid.errors import DatasetError
from consistentid.faces.parts import LABELS, part_areas

FAULTS: Final = {
    "record": "an entry of the list that says too little, or says it wrongly",
    "repeated": "a picture that is listed twice",
    "missing": "a file that cannot be read",
    "broken": "a file that cannot be decoded",
    "size": "a mask of another size than its picture",
    "labels": "a mask with values that are no labels",
    "nobody": "a mask in which no part of a face is labelled",
    "embedding": "an embedding that is not 512 finite numbers of unit length",
    "caption": "captions that name no part of the face that is visible",
}
"""What can be wrong: the code in reports, and what it means."""

_WIDTH: Final = 512
_UNIT: Final = 1e-3  # how far from 1 the length of an embedding may be: half precision gives that much

Content = TypeVar("Content")


@dataclass(frozen=True)
class Fault:
    """One fault: the key of the sample (or the place of its record), a key of `FAULTS`, and what was found."""

    sample: str
    fault: str
    detail: str


def check_dataset(path: Path, progress: Callable[[int, int], None] | None = None) -> dict[str, Any]:
    """Look at every file of a data set: a folder in any spelling of `consistentid.data.records`, or packed shards.

    Args:
        path: holds JSON_all.json or index.parquet.
        progress: called with (samples done, samples in all).

    Returns:
        "folder", "samples", "sound" (samples without a fault), "faults" (each "sample", "fault", "detail"), "counts"
        (faults by code).

    Raises:
        DatasetError: there is no data set.
    """
    dataset, faults = _opened(path)
    total = len(dataset) + len({fault.sample for fault in faults})
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = pool.map(lambda index: list(_faults(dataset, index)), range(len(dataset)))
        for done, some in enumerate(found, total - len(dataset) + 1):
            faults += some
            if progress:
                progress(done, total)
    seen: set[str] = set()
    for index in range(len(dataset)):
        image = dataset.record(index).image
        if image in seen:
            faults.append(Fault(dataset.keys[index], "repeated", f"{image} is listed more than once"))
        seen.add(image)
    counts = Counter(fault.fault for fault in faults)
    return {
        "folder": str(path),
        "samples": total,
        "sound": total - len({fault.sample for fault in faults}),
        "faults": [asdict(fault) for fault in faults],
        "counts": {code: counts[code] for code in FAULTS if counts[code]},
    }


def _opened(path: Path) -> tuple[Dataset, list[Fault]]:
    """The data set without records that cannot be used, and those."""
    if (path / RECORDS).exists():
        records: list[Record] = []
        faults = []
        for number, item in enumerate(read_items(path)):
            try:
                records.append(parse_record(item, f"record {number}"))
            except DatasetError as error:
                faults.append(Fault(f"record {number}", "record", str(error)))
        return FolderDataset(path, records), faults
    return open_dataset(path), []


def _faults(dataset: Dataset, index: int) -> Iterator[Fault]:
    key, record = dataset.keys[index], dataset.record(index)
    faults: list[Fault] = []

    def read(kind: str, decode: Callable[[bytes, str], Content]) -> Content | None:
        code = "missing"
        try:
            content = dataset.content(index, kind)
            code = "broken"
            return decode(content, dataset.name(index, kind))
        except DatasetError as error:
            faults.append(Fault(key, code, str(error)))
            return None

    picture, labels = read("image", read_picture), read("mask", read_labels)
    embedding = read("embedding", read_embedding) if record.embedding is not None else None
    yield from faults
    if embedding is not None:
        length = float(np.linalg.norm(embedding))
        if len(embedding) != _WIDTH or not abs(length - 1) < _UNIT:  # not-a-number fails this too
            found = f"{len(embedding)} numbers of length {length:.4g}"
            yield Fault(key, "embedding", f"{dataset.name(index, 'embedding')}: has {found}, not {_WIDTH} of length 1")
    if labels is None:
        return
    mask = dataset.name(index, "mask")
    if picture is not None and labels.shape != picture.shape[:2]:
        one, other = (f"{array.shape[1]}x{array.shape[0]}" for array in (labels, picture))
        yield Fault(key, "size", f"{mask}: has {one} pixels and its picture {other}")
    if (highest := int(labels.max())) >= len(LABELS):
        yield Fault(key, "labels", f"{mask}: has the value {highest}; labels are 0 to {len(LABELS) - 1}")
        return
    visible = part_areas(labels)
    if not visible:
        yield Fault(key, "nobody", f"{mask}: labels no part of a face")
    elif not set(visible) & set(find_parts(f"{record.face_caption} {record.caption}")):
        yield Fault(key, "caption", f"names none of the visible parts: {', '.join(visible)}")

"""The folder layout of a data set: pictures, parsing masks, embeddings, and one list of records about them.

```
DATASET/
├── JSON_all.json          a list of records, one a picture
├── resize_IMG/            pictures
├── parsing_mask_IMG/      CelebAMask-HQ labels of the pictures, 8-bit PNGs of the same size
└── all_faceID/            torch files with a (1, 512) face embedding; may be absent
```
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any, Final

from consistentid.errors import DatasetError
from consistentid.files.reading import read_json
from consistentid.files.writing import write_whole

RECORDS: Final = "JSON_all.json"
IMAGES: Final = "resize_IMG"
MASKS: Final = "parsing_mask_IMG"
EMBEDDINGS: Final = "all_faceID"

KEYS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "image": ("resize_IMG", "IMG", "origin_IMG"),
        "mask": ("parsing_mask_IMG",),
        "caption": ("vqa_llva",),
        "face_caption": ("vqa_llva_more_face_detail", "vqa_llva_facial", "vqa_llva_face_caption"),
        "embedding": ("id_embed_file_resize", "id_embed_file_origin"),
        "person": ("person",),
    }
)
"""Field of a record -> the keys it goes by in files: all are read, the first that is there counts; the first of all is
written."""

_FOLDERS: Final = MappingProxyType({"image": IMAGES, "mask": MASKS, "embedding": EMBEDDINGS})


_LARGEST: Final = 1 << 32  # bytes of the list: about four million records


@dataclass(frozen=True)
class Record:
    """One picture of a data set.

    Attributes:
        image: path of the picture in `IMAGES`, with "/" between folders.
        mask: path of its parsing labels in `MASKS`.
        caption: what the picture shows.
        face_caption: a sentence about the parts of the face.
        embedding: path of the face embedding in `EMBEDDINGS`.
        person: the same for all pictures of one person; None where it is not known.
        extra: everything else that the file holds, kept as it is.
    """

    image: str
    mask: str
    caption: str = ""
    face_caption: str = ""
    embedding: str | None = None
    person: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, folder in _FOLDERS.items():
            value = getattr(self, name)
            if value is not None and (not value or _leaves(value)):
                raise DatasetError(f"{name} {value!r}: is no path inside {folder}/; make it relative to that folder")

    @property
    def key(self) -> str:
        """Names the picture in its data set: its path without suffix."""
        return str(PurePosixPath(self.image).with_suffix(""))

    def files(self, folder: Path) -> dict[str, Path]:
        """Where the files of the record are in the data set `folder`: "image", "mask" and, if there is, "embedding"."""
        given = {name: getattr(self, name) for name in _FOLDERS}
        return {name: folder / _FOLDERS[name] / value for name, value in given.items() if value is not None}


def read_records(folder: Path) -> list[Record]:
    """The records of a data set, in their order in the file. Whether the files they name exist is not looked at.

    Raises:
        DatasetError: the list is missing, broken, or a record lacks its picture or mask; the record is named.
    """
    return [parse_record(item, f"{folder / RECORDS}: record {n}") for n, item in enumerate(read_items(folder))]


def read_items(folder: Path) -> list[Any]:
    """The entries of a data set's list, whatever they are.

    Raises:
        DatasetError: the list is missing or broken.
    """
    path = folder / RECORDS
    if not path.exists():
        raise DatasetError(f"{folder}: is no data set, it has no {RECORDS}; name the folder that holds it")
    content: list[Any] = read_json(path, _LARGEST, what="list of records", error=DatasetError, kind=list)
    return content


def parse_record(item: Any, where: str) -> Record:
    """One entry of the list as a record.

    Args:
        item: as JSON has it.
        where: its place, for messages.

    Raises:
        DatasetError: it lacks its picture or mask, or a value is none that it can be.
    """
    if not isinstance(item, dict):
        raise DatasetError(f"{where}: is a {type(item).__name__}; it must be a mapping with the keys of a picture")
    fields: dict[str, str] = {}
    extra = dict(item)
    for name, keys in KEYS.items():
        key = next((key for key in keys if item.get(key) is not None), None)
        if key is not None:
            fields[name] = extra.pop(key)
            if not isinstance(fields[name], str):
                raise DatasetError(f"{where}: {key!r} is {fields[name]!r}; it must be a text")
        elif name in ("image", "mask"):
            raise DatasetError(f"{where}: has no {name}; add it under the key {keys[0]!r}")
    try:
        return Record(**fields, extra=extra)
    except DatasetError as error:
        raise DatasetError(f"{where}: {error}") from None


def write_records(folder: Path, records: Sequence[Record]) -> Path:
    """Write the list of records, one a line, in place of what was there; return its path.

    Raises:
        InputError: it cannot be written; the old list is then as it was.
    """
    lines = [json.dumps(_item(record), ensure_ascii=False) for record in records]
    path = folder / RECORDS
    write_whole(path, "[\n" + ",\n".join(lines) + "\n]\n")
    return path


def _leaves(path: str) -> bool:
    pure = PurePosixPath(path)
    return pure.is_absolute() or ".." in pure.parts


def _item(record: Record) -> dict[str, Any]:
    given = {KEYS[name][0]: getattr(record, name) for name in KEYS}
    known = {key: value for key, value in given.items() if value is not None}
    return known | {key: value for key, value in record.extra.items() if key not in known}

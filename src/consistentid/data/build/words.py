"""Words that raw pictures come with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from consistentid.data.records import read_records
from consistentid.errors import DatasetError
from consistentid.faces.caption import Caption

_LONGEST_LINE: Final = 2000  # characters of a text beside a picture


def folder_words(photos: Path) -> Mapping[str, Caption]:
    """Captions by the picture's path without suffix, from the records of the data set that the pictures belong to."""
    for folder in (photos, photos.parent):
        try:
            return {record.key: Caption(record.caption, record.face_caption) for record in read_records(folder)}
        except DatasetError:
            continue
    return {}


def text_beside(file: Path) -> Caption | None:
    """The words in NAME.txt beside NAME.jpg: first line the picture, second the face."""
    beside = file.with_suffix(".txt")
    if not beside.is_file():  # a pipe of that name would be waited for
        return None
    try:
        with beside.open(encoding="utf-8") as text:
            image, face = (" ".join(text.readline(_LONGEST_LINE).split()) for _ in range(2))
    except (OSError, ValueError):
        return None
    return Caption(image, face)

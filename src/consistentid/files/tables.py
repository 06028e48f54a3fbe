"""CSV files: lists of pictures that people and other tools write, read and written in one way."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterable, Sequence
from os import PathLike
from pathlib import Path

from consistentid.errors import InputError
from consistentid.files.reading import read_bytes
from consistentid.files.writing import replacing


def read_table(
    path: str | PathLike[str], columns: Sequence[str], needed: Collection[str], *, what: str, help_page: str
) -> list[tuple[str, dict[str, str]]]:
    """The lines of a CSV file in UTF-8 with a head: where each stands, for messages, and its cells by column.

    Args:
        path: of the file.
        columns: that there are; a line has a cell for each, empty where the file has not.
        needed: those that the file must have.
        what: the file is, for messages: "manifest".
        help_page: that says what the columns mean.

    Raises:
        InputError: the file cannot be read, is no CSV, lacks a column or has one that is not known, or has no lines.
    """
    try:
        text = read_bytes(path, what=what).decode("utf-8-sig")
        reader = csv.DictReader(io.StringIO(text, newline=""))
        table, found = list(reader), list(reader.fieldnames or [])
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as CSV ({error}); see {help_page} for its columns") from None
    if missing := [name for name in needed if name not in found]:
        raise InputError(f"{path}: lacks the columns {', '.join(missing)}; see {help_page}")
    if unknown := [name for name in found if name not in columns]:
        raise InputError(f"{path}: has unknown columns {', '.join(unknown)}; known are {', '.join(columns)}")
    if not table:
        raise InputError(f"{path}: lists no pictures; see {help_page} for its columns")
    return [
        (f"{path}, line {number}", {name: (line.get(name) or "").strip() for name in columns})
        for number, line in enumerate(table, 2)
    ]


def write_table(path: Path, columns: Iterable[str], lines: Iterable[Iterable[str]]) -> None:
    """Write a CSV file in UTF-8 as `read_table` reads it, whole or not at all.

    Raises:
        InputError: it cannot be written.
    """
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        writer.writerows(lines)

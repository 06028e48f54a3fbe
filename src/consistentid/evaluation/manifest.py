"""The list of pictures to be scored: a CSV file with one line a picture, made by this package or by any other tool.

| column | meaning |
|---|---|
| `picture` | the picture to be scored; empty or a missing file = the tool refused, which counts as a failure |
| `identity` | name of the person |
| `reference` | the picture that the tool saw |
| `prompt` | the prompt |
| `others` | other pictures of the person, separated by `;`; may be empty |
| `real` | the one of `others` that shows what the prompt asks; may be empty |
| `method` | which tool or setting made it; by default the name of the file |
| `seed` | by default 0; pictures that differ in it only are measured for diversity |
| `group` | kind of prompt; may be empty |
| `seconds`, `memory_mb` | what it cost; may be empty |

Only the first four columns are needed. Paths are relative to the folder given, or to the file's own.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from consistentid.errors import InputError
from consistentid.files.tables import read_table, write_table

NAME = "manifest.csv"
_NEEDED = ("picture", "identity", "reference", "prompt")


@dataclass(frozen=True)
class Row:
    """One picture, see the columns above; paths are complete, `picture` is None where there is none."""

    method: str
    identity: str
    prompt: str
    group: str
    seed: int
    picture: Path | None
    reference: Path
    others: tuple[Path, ...] = ()
    real: Path | None = None
    seconds: float = math.nan
    memory_mb: float = math.nan

    @property
    def task(self) -> tuple[str, str, int]:
        """What was asked for: person, prompt and seed, the same for all methods."""
        return self.identity, self.prompt, self.seed


_COLUMNS = tuple(field.name for field in fields(Row))


def write_manifest(file: Path, rows: Sequence[Row]) -> None:
    """Write a manifest whose paths are relative to its own folder."""

    def cell(value: object) -> str:
        match value:
            case Path():
                return Path(os.path.relpath(value, file.parent)).as_posix()
            case tuple():
                return ";".join(cell(item) for item in value)
            case None:
                return ""
            case float():
                return "" if math.isnan(value) else f"{value:.4g}"
        return str(value)

    write_table(file, _COLUMNS, ([cell(getattr(row, name)) for name in _COLUMNS] for row in rows))


def read_manifest(file: Path, folder: Path | None = None) -> list[Row]:
    """The pictures of a manifest.

    Args:
        file: CSV.
        folder: what its paths are relative to; the file's own folder by default.

    Raises:
        InputError: the file is missing, no CSV of this form, or a reference that it names is missing.
    """
    base = folder or file.parent
    lines = read_table(file, _COLUMNS, _NEEDED, what="manifest", help_page="docs/evaluation.md")
    return [_row(cells, base, where, file.stem) for where, cells in lines]


def _row(cells: dict[str, str], base: Path, where: str, method: str) -> Row:
    picture = base / cells["picture"] if cells["picture"] else None
    others = tuple(base / name for name in cells["others"].split(";") if name)
    real = base / cells["real"] if cells["real"] else None
    reference = base / cells["reference"]
    if not (cells["identity"] and cells["reference"] and cells["prompt"]):
        raise InputError(f"{where}: identity, reference and prompt must not be empty")
    if absent := [path for path in (reference, *others, *filter(None, (real,))) if not path.is_file()]:
        raise InputError(f"{where}: {absent[0]} does not exist; paths are relative to {base}")
    try:
        seed = int(cells["seed"] or 0)
        seconds, memory = (float(cells[name] or "nan") for name in ("seconds", "memory_mb"))
    except ValueError as error:
        raise InputError(f"{where}: seed, seconds and memory_mb must be numbers ({error})") from None
    return Row(
        method=cells["method"] or method,
        identity=cells["identity"],
        prompt=cells["prompt"],
        group=cells["group"],
        seed=seed,
        picture=picture if picture and picture.is_file() else None,
        reference=reference,
        others=others if real is None or real in others else (*others, real),
        real=real,
        seconds=seconds,
        memory_mb=memory,
    )

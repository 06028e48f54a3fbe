"""Which raw pictures there are, what their files are called, and which are worked on together."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from consistentid.data.build.job import STATE, Job
from consistentid.data.records import RECORDS
from consistentid.errors import InputError
from consistentid.faces.caption import Caption
from consistentid.files.writing import write_whole

_PLAN: Final = "plan.jsonl"
_LONGEST_NAME: Final = 120  # bytes; file systems allow 255, and a temporary name is longer than the final one
_NO_PICTURES: Final = (".txt", ".json")


@dataclass(frozen=True)
class Source:
    """A raw picture of the plan: its path in the folder, the name of its files without suffix, size and time."""

    path: str
    name: str
    size: int
    changed: int


@dataclass(frozen=True)
class Shard:
    """Pictures that are worked on together; `words` are those that their folder has for them."""

    number: int
    sources: tuple[Source, ...]
    words: tuple[Caption | None, ...] = ()


def scan(photos: Path) -> tuple[list[tuple[str, int, int]], dict[str, str]]:
    """All files of a folder that may be pictures.

    Hidden files are passed over, and texts that belong to pictures. Linked folders are entered, each folder once.

    Returns:
        (path in the folder, size, time of change) sorted by path; and path -> reason of what cannot be listed.

    Raises:
        InputError: there is no such folder.
    """
    files: list[tuple[str, int, int]] = []
    unlisted: dict[str, str] = {}
    seen: set[tuple[int, int]] = set()

    def enter(folder: Path, path: str) -> None:
        status = folder.stat()
        if (status.st_dev, status.st_ino) in seen:
            unlisted[path] = "a folder that was entered already: a link to it, or one that leads back"
            return
        seen.add((status.st_dev, status.st_ino))
        entries = sorted(os.scandir(folder), key=lambda entry: os.fsencode(entry.name))
        stems = {Path(entry.name).stem for entry in entries if not entry.name.lower().endswith(_NO_PICTURES)}
        for entry in entries:
            within = f"{path}/{entry.name}" if path else entry.name
            if entry.name.startswith(".") or entry.name == RECORDS:
                continue
            try:
                if entry.is_dir():
                    enter(Path(entry.path), within)
                    continue
                status = entry.stat()
                files.append((within, status.st_size, status.st_mtime_ns))
            except OSError as error:
                unlisted[within] = f"cannot be reached ({error.strerror}); correct the link or its permissions"
                continue
            if entry.name.lower().endswith(".txt") and Path(entry.name).stem in stems:
                files.pop()

    if not photos.is_dir():
        raise InputError(f"{photos}: is no folder; name the one that holds the pictures")
    try:
        enter(photos, "")
    except OSError as error:
        raise InputError(f"{photos}: cannot be listed ({error.strerror}); change its permissions") from None
    return files, unlisted


def plan_shards(job: Job, found: Sequence[tuple[str, int, int]]) -> list[Shard]:
    """The shards of former runs as they were, and new ones for pictures that are new or have changed."""
    path = job.out / STATE / _PLAN
    shards = _read_plan(path)
    planned = {source.path: source for shard in shards for source in shard.sources}
    names = {source.path: source.name for source in planned.values()}
    taken = {name.casefold() for name in names.values()}
    new = []
    for file, size, changed in found:
        before = planned.get(file)
        if before and (before.size, before.changed) == (size, changed):
            continue
        name = names.get(file) or _free_name(file, taken)
        taken.add(name.casefold())
        new.append(Source(file, name, size, changed))
    if new:
        for start in range(0, len(new), job.batch):
            shards.append(Shard(len(shards), tuple(new[start : start + job.batch])))
        lines = [json.dumps([list(vars(source).values()) for source in shard.sources]) for shard in shards]
        write_whole(path, "".join(f"{line}\n" for line in lines))
    return shards


def _read_plan(path: Path) -> list[Shard]:
    if not path.exists():
        return []
    try:
        lines = path.read_text().splitlines()
        return [Shard(number, tuple(Source(*row) for row in json.loads(line))) for number, line in enumerate(lines)]
    except (OSError, ValueError, TypeError):
        raise InputError(f"{path}: cannot be read; delete the data set's folder, or name a new one") from None


def result_file(out: Path, number: int) -> Path:
    """Where the result of a shard is noted when all its files are there."""
    return out / STATE / f"{number:06d}.json"


def _free_name(path: str, taken: set[str]) -> str:
    """A name for a picture's files that every system allows and that no other has, also where case does not count."""
    parts = [_portable(part) for part in stem(path).split("/")]
    name = "/".join(parts)
    if name.casefold() not in taken:
        return name
    # a.jpg beside a.png
    suffix = hashlib.sha256(os.fsencode(path)).hexdigest()[:8]
    return f"{name}-{suffix}"


def _portable(part: str) -> str:
    clean = re.sub(r'[\x00-\x1f\x7f<>:"\\|?*]', "_", printable(part)).rstrip(". ")
    clean = re.sub(r"^\.+", "_", clean) or "_"
    if len(clean.encode()) <= _LONGEST_NAME:
        return clean
    cut = clean.encode()[: _LONGEST_NAME - 9].decode(errors="ignore")
    return f"{cut}-{hashlib.sha256(clean.encode()).hexdigest()[:8]}"


def printable(path: str) -> str:
    """A file's name as text: bytes in it that are no UTF-8 become U+FFFD."""
    return os.fsencode(path).decode("utf-8", "replace")


def stem(path: str) -> str:
    """A path without suffix."""
    return str(PurePosixPath(path).with_suffix(""))

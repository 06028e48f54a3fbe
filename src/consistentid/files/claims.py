"""Claiming a folder: noting what is made there, and keeping out whoever would make anything else there meanwhile."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from filelock import FileLock, Timeout

from consistentid.errors import InputError
from consistentid.files.reading import read_json
from consistentid.files.writing import UNFINISHED, cannot_write, remove_unfinished, write_whole

LOCK: Final = ".lock"
"""File in a claimed folder that the process at work there holds locked; it stays when the process has ended."""

_HOLDS: Final = "holds"
_PATIENCE: Final = 2.0  # seconds: a process that has just been killed may not be gone yet


@contextmanager
def claimed(
    folder: Path, kind: str, about: Mapping[str, Any], *, note: str, own: Collection[str] = ()
) -> Iterator[None]:
    """Within the block the folder is this process's; afterwards the same run can go on in it, and no other.

    What killed processes left unfinished in it is removed.

    Args:
        folder: new, empty, or with the note of an earlier run.
        kind: what the folder would hold, for messages: "packed data set".
        about: plain values on which the result depends.
        note: path in the folder of the file that says what is made; written if it is not there.
        own: names in the folder that may be there before the note.

    Raises:
        InputError: the folder holds something else, or the same made otherwise; another process is at work in it; the
            note cannot be read or written.
    """
    _check(folder, kind, about, note, own)  # nothing is left in somebody else's folder
    with _locked(folder):
        _check(folder, kind, about, note, own)
        remove_unfinished(folder)
        if not (folder / note).exists():
            write_whole(folder / note, json.dumps({_HOLDS: kind, **about}, indent=1) + "\n")
        yield


@contextmanager
def in_turn(path: Path) -> Iterator[None]:
    """Within the block this process makes what lies at a path; others that want it wait until it is there.

    Raises:
        InputError: its folder cannot be written to.
    """
    with _held(path.parent, f".{path.name}.lock", path, patience=-1):
        yield


def _check(folder: Path, kind: str, about: Mapping[str, Any], note: str, own: Collection[str]) -> None:
    file = folder / note
    try:
        if not os.path.lexists(file):
            known = {*own, LOCK, file.relative_to(folder).parts[0]}
            others = folder.iterdir() if folder.exists() else iter(())
            if any(path.name not in known and not path.name.startswith(UNFINISHED) for path in others):
                raise InputError(f"{folder}: is not empty, and holds no {kind}; name a new folder")
            return
    except OSError as error:
        raise cannot_write(folder, error) from None
    try:
        found = read_json(file, kind=dict)
        holds = found.get(_HOLDS, kind)  # the notes of older versions do not say it
        same = about if holds == kind else {}
        different = [f"{key} {found[key]} instead of {value}" for key, value in same.items() if found[key] != value]
    except (InputError, LookupError):
        raise InputError(f"{file}: does not tell of any {kind}, or is damaged; name a new folder") from None
    if holds != kind:
        raise InputError(f"{folder}: holds another thing ({holds}), and no {kind}; name a new folder")
    if different:
        raise InputError(f"{folder}: holds another {kind}, with {', '.join(different)}; name a new folder")


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """The folder is this process's alone; another one's is refused."""
    try:
        with _held(folder, LOCK, folder, patience=_PATIENCE):
            yield
    except Timeout:
        raise InputError(
            f"{folder}: another process is writing to it; wait until that has ended, or name a new folder"
        ) from None


@contextmanager
def _held(folder: Path, name: str, written: Path, *, patience: float) -> Iterator[None]:
    """A lock of the system's, so that it is gone when its process is, however that ends.

    Args:
        folder: of the lock; made if it is not there.
        name: of the lock's file.
        written: what is written to, for messages.
        patience: seconds to wait for another process; -1 = until it has ended.

    Raises:
        Timeout: another process has it for longer.
        InputError: the folder cannot be written to.
    """
    lock = FileLock(folder / name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=patience)
    except Timeout:
        raise
    except NotImplementedError:  # a file system without locks
        warnings.warn(f"{folder} cannot be locked: see that nothing else writes to it", stacklevel=5)
    except OSError as error:  # a Timeout is one, too
        raise cannot_write(written, error) from None
    try:
        yield
    finally:
        lock.release()

"""Writing files and folders whole: under a temporary name beside the final one, which they take when all is there."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from os import PathLike
from pathlib import Path
from typing import Final

from safetensors import SafetensorError

from consistentid.errors import InputError

UNFINISHED: Final = ".unfinished-"
"""How the temporary names begin: what a killed process leaves is known by it."""

_LONGEST_SUFFIX: Final = 32


@contextmanager
def replacing(path: str | PathLike[str], *, private: bool = False, durable: bool = False) -> Iterator[Path]:
    """A temporary name beside `path` to write to; it takes the place of `path` only if the block succeeds.

    Args:
        path: the file to write; its folder is made.
        private: readable by its owner alone; any other file is readable as the user's umask has it, whatever rights
            the library that writes it gives its files.
        durable: both the file and its name outlive a power cut from now on.

    Raises:
        InputError: the disk is full or the folder cannot be written to; nothing is left behind.
    """
    final = Path(path)
    temporary = _temporary(final)
    with _explained(final):
        final.parent.mkdir(parents=True, exist_ok=True)
        rights = _create(temporary, 0o600 if private else 0o666)
        try:
            yield temporary
            temporary.chmod(rights)
            if durable:
                _sync(temporary)
            temporary.replace(final)
        finally:
            with suppress(OSError):  # where writing fails tidying may, too; the first error is to be told
                temporary.unlink()
        if durable:
            _sync(final.parent)


@contextmanager
def replacing_folder(path: str | PathLike[str], *, durable: bool = False) -> Iterator[Path]:
    """The same for a folder: a new one to fill, that takes the place of `path` only if the block succeeds.

    Args:
        path: the folder to write.
        durable: see `replacing`; so are all files in it.

    Raises:
        InputError: see `replacing`.
    """
    final = Path(path)
    temporary, old = _temporary(final), _temporary(final)
    with _explained(final):
        final.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
        try:
            yield temporary
            rights = stat.S_IMODE(temporary.stat().st_mode) & 0o666
            for inside in temporary.rglob("*"):
                if inside.is_file():
                    inside.chmod(rights)
                if durable:
                    _sync(inside)
            if durable:
                _sync(temporary)
            if final.exists():  # a folder that is not empty cannot be replaced in one step
                final.replace(old)
            temporary.replace(final)
        except InputError as error:  # of a file in it
            raise InputError(str(error).replace(str(temporary), str(final))) from None
        finally:
            for leftover in (temporary, old):
                shutil.rmtree(leftover, ignore_errors=True)
        if durable:
            _sync(final.parent)


def write_whole(path: str | PathLike[str], data: bytes | str, *, private: bool = False, durable: bool = False) -> None:
    """Write bytes, or a text in UTF-8, as `replacing` does.

    Raises:
        InputError: see `replacing`.
    """
    with replacing(path, private=private, durable=durable) as temporary:
        temporary.write_bytes(data if isinstance(data, bytes) else data.encode())


def save_new(path: str | PathLike[str], data: bytes) -> Path:
    """Write `data` to `path` or, if that is taken, to the next free name; return the name used.

    Raises:
        InputError: see `replacing`.
    """
    while True:
        final = next_free(path)
        with _explained(final):
            final.parent.mkdir(parents=True, exist_ok=True)
            try:
                final.open("xb").close()  # taking the name first keeps two runs in one folder from choosing the same
            except FileExistsError:
                continue
        try:
            write_whole(final, data)
        except BaseException:
            final.unlink(missing_ok=True)
            raise
        return final


def next_free(path: str | PathLike[str]) -> Path:
    """`path`, or with -2, -3, ... before the suffix the first name that is not taken."""
    wanted = Path(path)
    if not os.path.lexists(wanted):
        return wanted
    return next(
        candidate
        for number in count(2)
        if not os.path.lexists(candidate := wanted.with_name(f"{wanted.stem}-{number}{wanted.suffix}"))
    )


def check_folder(folder: str | PathLike[str], megabytes: int = 16) -> Path:
    """Prove, before any slow work begins, that files of `megabytes` in all can be written to `folder`.

    The folder itself is made by the first file, so that a run that fails leaves nothing behind.

    Raises:
        InputError: it is a file, cannot be made or written to, or its disk is full.
    """
    path = Path(folder)
    with _explained(path):
        with suppress(FileNotFoundError, NotADirectoryError):
            path.lstat()  # a name that no system allows
        existing = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
        if not existing.is_dir():
            raise InputError(f"{existing}: is a file; name a folder for the results")
        with tempfile.TemporaryFile(dir=existing) as probe:
            probe.write(b"probe")
        free = shutil.disk_usage(existing).free
    if free < megabytes << 20:
        raise InputError(
            f"{path}: only {free >> 20} MB are free and {megabytes} MB are needed; free some or choose another folder"
        )
    return path


def remove_unfinished(folder: Path) -> None:
    """Remove what killed processes were writing in a folder and those below. Nobody else may be writing there now."""
    for leftover in list(folder.rglob(f"{UNFINISHED}*")):
        with suppress(OSError):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()


def cannot_write(path: Path, error: Exception) -> InputError:
    """The error to raise where a file or folder cannot be written to."""
    number = getattr(error, "errno", None)
    # safetensors tells the system's errors as texts only
    if number in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error):
        return InputError(f"{path}: the disk is full; free some space or choose another folder")
    reason = os.strerror(number).lower() if number else str(error)
    return InputError(f"{path}: cannot be written ({reason}); choose another folder or change its permissions")


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise cannot_write(path, error) from None


def _temporary(final: Path) -> Path:
    # The suffix stays, because many writers choose the format by it. Chance makes the name unique: process numbers are
    # not, where containers share a folder.
    suffix = final.suffix if len(final.suffix) <= _LONGEST_SUFFIX else ""
    return final.with_name(f"{UNFINISHED}{secrets.token_hex(8)}{suffix}")


def _create(path: Path, wanted: int) -> int:
    """Make an empty file; return the rights that it got, which are those that the umask leaves of `wanted`."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, wanted)
    try:
        return stat.S_IMODE(os.fstat(descriptor).st_mode)
    finally:
        os.close(descriptor)


def _sync(path: Path) -> None:
    if path.is_dir():
        if os.name == "nt":  # which writes folders itself, and opens none
            return
        descriptor = os.open(path, os.O_RDONLY)
    else:
        descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

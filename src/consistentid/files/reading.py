"""Reading files that anybody may have made: in bounded time and memory, whatever they are."""

from __future__ import annotations

import json
import os
import stat
from os import PathLike
from pathlib import Path
from typing import Any, Final

from consistentid.errors import ConsistentIDError, InputError

MAX_DEPTH: Final = 50
"""Lists and mappings within one another that a JSON or YAML file may have."""

MAX_BYTES: Final = 1 << 28
"""Size of a JSON file above which it is refused, where its reader sets no other limit."""


def check_file(
    path: str | PathLike[str],
    limit: int | None = None,
    *,
    what: str = "file",
    error: type[ConsistentIDError] = InputError,
) -> Path:
    """Make sure that a path is that of a file that can be read to its end, before any library opens it.

    A pipe would be waited for and a device read for ever; a file of holes has no size on disk and any size in memory.

    Args:
        path: of the file.
        limit: bytes that it may have.
        what: it should be, for messages.
        error: kind to raise.

    Raises:
        error: there is no such file, it is a folder, pipe or device, larger than allowed, or may not be read.
    """
    file = Path(path)
    try:
        status = file.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise error(f"{file}: no such file; check the path") from None
    except (OSError, ValueError) as problem:  # a name too long, a loop of links, a null character
        reason = getattr(problem, "strerror", None) or str(problem)
        raise error(f"{_short(file)}: cannot be read ({reason.lower()}); check the path") from None
    if stat.S_ISDIR(status.st_mode):
        raise error(f"{file}: is a folder; name the {what} inside it")
    if not stat.S_ISREG(status.st_mode):
        raise error(f"{file}: is not a regular file; save the {what} to disk first")
    if not os.access(file, os.R_OK):
        raise error(f"{file}: may not be read; change its permissions")
    if limit is not None and status.st_size > limit:
        raise error(f"{file}: has {_size(status.st_size)}, and a {what} at most {_size(limit)}; check the path")
    return file


def read_bytes(
    path: str | PathLike[str],
    limit: int = MAX_BYTES,
    *,
    what: str = "file",
    error: type[ConsistentIDError] = InputError,
) -> bytes:
    """The content of a file of at most `limit` bytes.

    Raises:
        error: see `check_file`.
    """
    file = check_file(path, limit, what=what, error=error)
    try:
        with file.open("rb") as stream:
            return stream.read(limit + 1)[:limit]
    except OSError as problem:
        raise error(f"{file}: cannot be read ({(problem.strerror or str(problem)).lower()}); check the path") from None


def read_json(
    path: str | PathLike[str],
    limit: int = MAX_BYTES,
    *,
    what: str = "file",
    error: type[ConsistentIDError] = InputError,
    kind: type = object,
) -> Any:
    """What a JSON file in UTF-8 holds: a mapping or a list where `kind` is dict or list.

    Raises:
        error: see `check_file` and `parse_json`.
    """
    return parse_json(read_bytes(path, limit, what=what, error=error), str(path), error, kind)


def parse_json(
    content: bytes | str, where: str, error: type[ConsistentIDError] = InputError, kind: type = object
) -> Any:
    """JSON, for which `where` stands in messages: a mapping or a list where `kind` is dict or list.

    Raises:
        error: it is none, is of another kind, or nested deeper than `MAX_DEPTH`.
    """
    try:
        text = content.decode("utf-8-sig") if isinstance(content, bytes) else content
        value = json.loads(text)
    except RecursionError:
        raise too_deep(where, error) from None
    except ValueError as problem:
        raise error(f"{where}: is not JSON ({problem}); it is truncated or damaged, write it again") from None
    if not isinstance(value, kind):
        wanted = "mapping" if kind is dict else kind.__name__
        raise error(f"{where}: holds a {type(value).__name__}, and no {wanted}; it is damaged, write it again")
    if text.count("[") + text.count("{") > MAX_DEPTH:
        check_depth(value, where, error)
    return value


def check_depth(value: Any, where: str, error: type[ConsistentIDError] = InputError) -> None:
    """Refuse lists and mappings nested deeper than `MAX_DEPTH`: what comes after walks through them by recursion.

    Raises:
        error: they are.
    """
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            item
            for holder in level
            if isinstance(holder, (dict, list))
            for item in (holder.values() if isinstance(holder, dict) else holder)
            if isinstance(item, (dict, list))
        ]
        if not level:
            return
    raise too_deep(where, error)


def too_deep(where: str, error: type[ConsistentIDError]) -> ConsistentIDError:
    """The error to raise for a file that is nested too deep."""
    return error(f"{where}: is nested deeper than {MAX_DEPTH} levels; write it flatter")


def _short(path: Path) -> str:
    text = str(path)
    return text if len(text) <= 200 else f"{text[:100]}...{text[-60:]}"


def _size(count: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.4g} {unit}"
    return f"{count} bytes"

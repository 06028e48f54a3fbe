"""Results on disk: PNGs that say how they were made, JSON beside them. Nothing half-written, nothing overwritten."""

from __future__ import annotations

import errno
import io
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import version
from itertools import count
from os import PathLike
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from consistentid.errors import InputError

RECORD_KEY = "consistentid"
"""PNG text chunk that holds the record of how a picture was made, as JSON."""

DIGITAL_SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
"""IPTC's term for media made by a trained model: what viewers and platforms read to label a picture AI-generated."""


def versions() -> dict[str, str]:
    """The versions a result depends on, by name."""
    packages = ("consistentid", "torch", "diffusers", "transformers", "peft", "onnxruntime")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def check_folder(folder: str | PathLike[str], megabytes: int = 16) -> Path:
    """Prove, before any slow work begins, that files of `megabytes` in all can be written to `folder`.

    The folder itself is made by the first file, so that a run that fails leaves nothing behind.

    Raises:
        InputError: it is a file, cannot be made or written to, or its disk is full.
    """
    path = Path(folder)
    existing = next((parent for parent in (path, *path.absolute().parents) if parent.exists()), path)
    if not existing.is_dir():
        raise InputError(f"{existing}: is a file; name a folder for the results")
    try:
        with tempfile.TemporaryFile(dir=existing) as probe:
            probe.write(b"probe")
        free = shutil.disk_usage(existing).free
    except OSError as error:
        raise _cannot_write(path, error) from None
    if free < megabytes << 20:
        raise InputError(
            f"{path}: only {free >> 20} MB are free and {megabytes} MB are needed; free some or choose another folder"
        )
    return path


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


@contextmanager
def replacing(path: str | PathLike[str]) -> Iterator[Path]:
    """A temporary name beside `path` to write to; it takes the place of `path` only if the block succeeds.

    Raises:
        InputError: the disk is full or the folder cannot be written to; nothing is left behind.
    """
    final = Path(path)
    # The suffix stays, because many writers choose the format by it.
    temporary = final.with_name(f".{final.stem}.{os.getpid()}{final.suffix}")
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(final)
    except OSError as error:
        raise _cannot_write(final, error) from None
    finally:
        with suppress(OSError):  # what cannot be written to cannot be tidied, and the first error is the one to tell
            temporary.unlink()


def claim(folder: Path, note: Path, about: Mapping[str, Any], kind: str, own: Collection[str] = ()) -> list[str]:
    """Note in a folder what a run makes there, so that the same run can go on, and no other.

    Args:
        folder: new, empty, or with the note of an earlier run.
        note: the file in it that says what is made; written if it is not there.
        about: plain values on which the result depends.
        kind: what the folder would hold, for the message.
        own: names in the folder that are there before the note.

    Returns:
        How the earlier run differs from this one, such as "size 64 instead of 96"; empty when it may go on.

    Raises:
        InputError: the folder holds something else, or the note cannot be read or written.
    """
    if not note.exists():
        if folder.exists() and any(path.name not in own for path in folder.iterdir()):
            raise InputError(f"{folder}: is not empty, and holds no {kind}; name a new folder")
        with replacing(note) as temporary:
            temporary.write_text(json.dumps(about, indent=1) + "\n")
        return []
    try:
        found = json.loads(note.read_text())
        return [f"{key} {found[key]} instead of {value}" for key, value in about.items() if found[key] != value]
    except (OSError, ValueError, LookupError, TypeError):
        raise InputError(f"{note}: cannot be read; delete the folder, or name a new one") from None


def save_new(path: str | PathLike[str], data: bytes) -> Path:
    """Write `data` to `path` or, if that is taken, to the next free name; return the name used."""
    while True:
        final = next_free(path)
        try:
            final.parent.mkdir(parents=True, exist_ok=True)
            # Taking the name first keeps two runs in one folder from choosing the same.
            final.open("xb").close()
        except FileExistsError:
            continue
        except OSError as error:
            raise _cannot_write(final, error) from None
        try:
            with replacing(final) as temporary:
                temporary.write_bytes(data)
        except BaseException:
            final.unlink(missing_ok=True)
            raise
        return final


def encode_png(image: Image.Image, record: Mapping[str, Any]) -> bytes:
    """A PNG of `image` that carries `record` and the mark of an AI-generated picture.

    `record` is any JSON data; its "prompt", if there, is also the picture's description for ordinary viewers.
    """
    info = PngInfo()
    info.add_text("Software", f"consistentid {version('consistentid')}")
    info.add_text("Source", "AI-generated")
    if "prompt" in record:
        info.add_itxt("Description", str(record["prompt"]))
    info.add_itxt(RECORD_KEY, json.dumps(_without_nan(record), ensure_ascii=False))
    info.add_itxt("XML:com.adobe.xmp", _xmp(str(record.get("prompt", ""))))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", pnginfo=info)
    return buffer.getvalue()


def read_record(path: str | PathLike[str]) -> dict[str, Any]:
    """The record that `encode_png` put into a picture.

    Raises:
        InputError: the file is no PNG of this program.
    """
    try:
        with Image.open(path) as image:
            image.load()
            text = image.info.get(RECORD_KEY)
    except (OSError, SyntaxError) as error:
        raise InputError(f"{path}: cannot be read ({error}); name a PNG made by consistentid") from None
    if not isinstance(text, str):
        raise InputError(f"{path}: holds no record of how it was made; name a PNG made by consistentid")
    record: dict[str, Any] = json.loads(text)
    return record


def encode_json(data: Mapping[str, Any]) -> bytes:
    """Readable UTF-8 JSON; a likeness that could not be measured becomes null, since JSON knows no NaN."""
    return (json.dumps(_without_nan(data), indent=2, ensure_ascii=False) + "\n").encode()


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and value != value else value


def _cannot_write(path: Path, error: OSError) -> InputError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return InputError(f"{path}: the disk is full; free some space or choose another folder")
    reason = os.strerror(error.errno).lower() if error.errno else str(error)
    return InputError(f"{path}: cannot be written ({reason}); choose another folder or change its permissions")


def _xmp(description: str) -> str:
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/"'
        ' xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/">'
        f"<Iptc4xmpExt:DigitalSourceType>{DIGITAL_SOURCE_TYPE}</Iptc4xmpExt:DigitalSourceType>"
        f'<dc:description><rdf:Alt><rdf:li xml:lang="x-default">{escape(description)}</rdf:li></rdf:Alt>'
        '</dc:description></rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
    )

"""What a picture tells of where it came from."""

from __future__ import annotations

from os import PathLike
from typing import Any

from consistentid.errors import InputError
from consistentid.files.images import load_image
from consistentid.files.output import read_record
from consistentid.provenance import watermark
from consistentid.provenance.credentials import read_credentials


def inspect_picture(path: str | PathLike[str], trusted: str | PathLike[str] | None = None) -> dict[str, Any]:
    """The three marks of a picture; none of them found means nothing, since each can be removed.

    Args:
        path: a picture in any format; the record and, mostly, the manifest are gone from what was converted.
        trusted: see `read_credentials`.

    Returns:
        "record": what the picture says of itself, which anybody may have written, or None; "watermark": "found",
        "chance" (bound on the probability of an unmarked picture to agree so well with the mark), "scale" and
        "mirrored"; "credentials": see `read_credentials`.

    Raises:
        ImageError: the file is no picture that can be read. InputError: see `read_credentials`.
    """
    image = load_image(path)
    try:
        record = read_record(path)
    except InputError:
        record = None
    mark = watermark.detect(image)
    seen = {"scale": round(mark.scale, 3), "mirrored": mark.mirrored} if mark.found else {}
    return {
        "record": record,
        "watermark": {"found": mark.found, "chance": mark.chance, **seen},
        "credentials": read_credentials(path, trusted),
    }

"""Files inside JSON documents: their content in base64, or as a data URL."""

from __future__ import annotations

import base64
import binascii
import io
from typing import Any

from PIL import Image


def from_base64(value: Any) -> bytes:
    """The content of a file: base64, or a data URL with it ("data:image/png;base64,...").

    Raises:
        ValueError: it is neither, or empty.
    """
    if not isinstance(value, str):
        raise ValueError("no text")
    head, comma, body = value.partition(",")
    if not comma:
        body = value
    elif not (head.startswith("data:") and head.endswith(";base64")):
        raise ValueError("no data URL in base64")
    try:
        content = base64.b64decode("".join(body.split()), validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from None
    if not content:
        raise ValueError("it is empty")
    return content


def to_base64(content: bytes) -> str:
    """The content of a file as JSON can hold it."""
    return base64.b64encode(content).decode("ascii")


def to_data_url(picture: Image.Image, kind: str = "PNG", **options: Any) -> str:
    """A picture as a data URL of a PNG, or a file of another kind that Pillow writes with these options."""
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return f"data:image/{kind.lower()};base64,{to_base64(stream.getvalue())}"

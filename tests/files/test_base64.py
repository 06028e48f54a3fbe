"""Content of files inside JSON."""

from __future__ import annotations

import base64
import io

import pytest
from PIL import Image

from consistentid.files.base64 import from_base64, to_base64, to_data_url


def test_a_picture_comes_back_as_it_was() -> None:
    picture = Image.effect_noise((20, 10), 50).convert("RGB")
    assert to_data_url(picture).startswith("data:image/png;base64,")
    again = Image.open(io.BytesIO(from_base64(to_data_url(picture))))
    assert (again.format, again.tobytes()) == ("PNG", picture.tobytes())
    assert to_data_url(picture, "WEBP", quality=20).startswith("data:image/webp;base64,")


def test_bare_and_broken_lines() -> None:
    text = to_base64(b"some bytes")
    assert text == base64.b64encode(b"some bytes").decode()
    assert from_base64(text) == from_base64(f"{text[:4]}\n {text[4:]}") == b"some bytes"


@pytest.mark.parametrize(
    "value",
    [None, 3, b"YQ==", "", " ", "a", "Y!==", "photo.png", "data:image/png;base64,", "data:image/png,YQ==",
     "file:///etc/passwd,YQ==", "YQ==,YQ==", "\ud800"],
)  # fmt: skip
def test_what_is_none(value: object) -> None:
    with pytest.raises(ValueError, match=r"."):
        from_base64(value)

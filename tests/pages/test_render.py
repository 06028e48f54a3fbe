"""Pages stand alone, and what people write in them stays text."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from jinja2 import UndefinedError
from PIL import Image

import consistentid
from consistentid.pages.render import inline_picture, render

FACTS = {"charts": [], "built": 0, "colours": {}, "samples": [], "copies": [], "copies_count": 0}
EMPTY = {"facts": {}, "rejected": [], "strange": [], "strange_count": 0, **FACTS}


def test_words_are_text_and_never_markup() -> None:
    page = render("dataset.html", **{**EMPTY, "title": "<script>alert(1)</script>", "facts": {"a&b": "\udcff"}})
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<dt>a&amp;b</dt><dd>?</dd>" in page
    assert page.startswith("<!doctype html>")
    assert "body{margin:0" in page, "the one stylesheet is in it"


def test_a_gap_is_an_error() -> None:
    with pytest.raises(UndefinedError, match="title"):
        render("dataset.html", **EMPTY)


def test_pictures_are_in_the_page_and_small() -> None:
    image = Image.effect_noise((400, 200), 60).convert("RGB")
    address = inline_picture(image, 40)
    assert address.startswith("data:image/webp;base64,")
    assert len(address) < 4000
    assert image.size == (400, 200), "the picture itself stays as it is"


def test_no_page_is_written_by_hand() -> None:
    sources = Path(consistentid.__file__).parent
    found = {
        file.relative_to(sources).as_posix()
        for file in sources.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and "<!doctype" in node.value.lower()
    }
    assert found == set()

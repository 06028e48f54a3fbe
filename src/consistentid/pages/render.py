"""Pages of templates: one file each, with its style and its pictures in it and nothing outside it."""

from __future__ import annotations

from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from consistentid.files.base64 import to_data_url


def render(template: str, **values: Any) -> str:
    """A page of `templates`. Every value is escaped, unless it is `markupsafe.Markup`.

    Args:
        template: name of the file.
        values: what the template names; one that is not given is an error, not a gap in the page.
    """
    page = _environment().get_template(template).render(**values)
    return page.encode("utf-8", "replace").decode()  # names of files may be no Unicode


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("consistentid.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def inline_picture(image: Image.Image, side: int) -> str:
    """A picture as a data address, not larger than `side` pixels."""
    small = image.copy()
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    return to_data_url(small, "WEBP", quality=88)

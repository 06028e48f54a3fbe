"""Bodies of requests: forms and JSON, read in memory alone, so that nothing of an upload ever touches a disk."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Mapping
from typing import Any

from python_multipart.exceptions import FormParserError
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request as HttpRequest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from consistentid.files import base64
from consistentid.serving.refusal import RefusedError

_FIELDS = 64
"""Fields, and files, of one form."""


class BodyLimit:
    """An application behind a bound on the bytes of a body, whether its length was announced or not."""

    def __init__(self, app: ASGIApp, most: int) -> None:
        self._app, self._most = app, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        too_large = RefusedError(
            413, "too_large", f"the request has more than {self._most >> 20} MB; send fewer or smaller pictures"
        )
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._most or (announced.isdigit() and int(announced) > self._most):
                raise too_large
            return message

        await self._app(scope, counted, send)


class _InMemory(MultiPartParser):
    spool_max_size = 1 << 40  # starlette would put files of more than 1 MB on disk; `BodyLimit` bounds them


async def read_form(http: HttpRequest) -> FormData:
    """A multipart form.

    Raises:
        RefusedError: it is none, or broken.
    """
    if not http.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise RefusedError(
            415, "no_form", "send a multipart form, Content-Type: multipart/form-data, with the field 'photo'"
        )
    parser = _InMemory(http.headers, http.stream(), max_files=_FIELDS, max_fields=_FIELDS, max_part_size=1 << 20)
    try:
        return await parser.parse()
    except (MultiPartException, FormParserError, UnicodeError, LookupError) as error:
        message = getattr(error, "message", str(error))
        raise RefusedError(400, "broken_form", f"the multipart form is broken ({message}); send it again") from None


async def read_json(http: HttpRequest) -> dict[str, Any]:
    """A JSON object.

    Raises:
        RefusedError: it is none.
    """
    return parse_json(await http.body(), "the body")


def parse_json(data: bytes | str, name: str) -> dict[str, Any]:
    """A JSON object whose texts can be written in UTF-8; `name` is what it is called in messages.

    Raises:
        RefusedError: it is none.
    """
    try:
        value = json.loads(data)
        json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair can be read, and never written
    except (ValueError, RecursionError):
        raise RefusedError(400, "no_json", f"{name} is not a JSON document in UTF-8; see /openapi.json") from None
    if not isinstance(value, dict):
        raise RefusedError(400, "no_json", f"{name} is not a JSON object, {{...}}; see /openapi.json")
    return value


def from_base64(value: Any, name: str) -> bytes:
    """The bytes of a file in base64 or a data URL.

    Raises:
        RefusedError: it is none.
    """
    try:
        return base64.from_base64(value)
    except ValueError:
        raise RefusedError(400, "no_base64", f"{name} is not the content of a file in base64") from None


async def uploaded(form: FormData, *names: str) -> list[bytes]:
    """The files of a form's fields of those names, in order.

    Raises:
        RefusedError: a field of that name is a text.
    """
    found = []
    for name, value in form.multi_items():
        if name in names:
            if not isinstance(value, UploadFile):
                raise RefusedError(400, "no_file", f"the field {name!r} is a text; send a file")
            found.append(await value.read())
    return found


def text_fields(form: FormData, known: Mapping[str, str], files: tuple[str, ...]) -> dict[str, str]:
    """The texts of a form.

    Args:
        form: what was sent.
        known: names of the texts; the values say what each is.
        files: names of files, which are passed over.

    Raises:
        RefusedError: an unknown name, one that was sent twice, or a file where a text belongs.
    """
    found: dict[str, str] = {}
    for name, value in form.multi_items():
        if name in files:
            continue
        if name not in known:
            names = ", ".join([*files, *known])
            raise RefusedError(400, "unknown_field", f"unknown field {name[:60]!r}; known are {names}")
        if isinstance(value, UploadFile) or name in found:
            raise RefusedError(400, "invalid_field", f"the field {name!r} must be one text: {known[name]}")
        found[name] = value
    return found


def check_picture(data: bytes, name: str, most: int) -> None:
    """Makes sure, by its head alone, that a file is a picture of not too many pixels.

    Raises:
        RefusedError: it has too many.
        ImageError: it is none.
    """
    from PIL import Image

    from consistentid.files.images import read_photo

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data)) as image:
                width, height = image.size
    except Image.DecompressionBombError:
        width = height = most
    except Exception:  # a broken head makes Pillow's plugins raise nearly anything, and reading it words the error
        read_photo(data, name)
        raise
    if width * height > most:
        raise RefusedError(413, "too_many_pixels", f"{name} has more than {most / 1e6:g} megapixels; scale it down")

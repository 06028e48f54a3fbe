"""Portraits in the form that clients of OpenAI's image calls speak: `/v1/images/edits` and `/v1/images/generations`."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse

from consistentid.serving import document as doc
from consistentid.serving.calls import answered, client_of, form_of, whole_number
from consistentid.serving.refusal import RefusedError
from consistentid.serving.service import Service
from consistentid.serving.uploads import read_json, text_fields, uploaded

_FILES = ("image", "image[]")

_MEANT: Mapping[str, str] = {
    "prompt": "what the pictures shall show",
    "n": "how many",
    "size": "WIDTHxHEIGHT or auto",
    "seed": "of the first picture",
    "num_inference_steps": "sampling steps",
    "identity": "the token of an identity, or its file in base64",
}

_FIXED: Mapping[str, tuple[str, ...]] = {
    "response_format": ("b64_json",),
    "output_format": ("png",),
    "background": ("auto", "opaque"),
    "stream": ("false", "False"),
}
"""Fields with the only values that mean what is done here."""

_IDLE = ("model", "user", "quality", "style", "moderation", "input_fidelity")
"""Fields that say nothing to these networks."""


def add_images(app: FastAPI, service: Service) -> None:
    """Adds both calls to the application."""
    plain = {name: doc.TEXT | {"description": words} for name, words in _MEANT.items()}
    edit = doc.mapping({"image": doc.listed(doc.FILE, minItems=1), **plain}, "image", "prompt")

    @app.post(
        "/v1/images/edits", tags=["images"], summary="As OpenAI's: the images are photos of one person",
        openapi_extra=doc.body(form=edit), responses=doc.answers(doc.IMAGES, 400, 413, 415, 422, 429, 503, 504),
    )  # fmt: skip
    async def edits(http: HttpRequest) -> JSONResponse:
        async with form_of(http) as form:
            known = {**_MEANT, **dict.fromkeys((*_FIXED, *_IDLE), "a text")}
            texts = text_fields(form, known, _FILES)
            photos = await uploaded(form, *_FILES)
        if "identity" not in texts and not photos:
            raise RefusedError(400, "no_photo", "no photo; send at least one in the field 'image'")
        return await _answer(http, service, texts, photos)

    generation = doc.mapping({**plain, "n": doc.INTEGER, "seed": doc.INTEGER}, "prompt")

    @app.post(
        "/v1/images/generations", tags=["images"],
        summary="As OpenAI's: with `identity` of that person, without one of nobody in particular",
        openapi_extra=doc.body(json=generation), responses=doc.answers(doc.IMAGES, 400, 404, 413, 422, 429, 503, 504),
    )  # fmt: skip
    async def generations(http: HttpRequest) -> JSONResponse:
        values = await read_json(http)
        if unknown := [name for name in values if name not in (*_MEANT, *_FIXED, *_IDLE)]:
            names = ", ".join(_MEANT)
            raise RefusedError(400, "unknown_field", f"unknown field {unknown[0][:60]!r}; known are {names}")
        return await _answer(http, service, values, [])


async def _answer(http: HttpRequest, service: Service, values: Mapping[str, Any], photos: list[bytes]) -> JSONResponse:
    for name, allowed in _FIXED.items():
        if values.get(name) is not None and str(values[name]) not in allowed:
            raise RefusedError(400, "invalid_field", f"{name}={values[name]!r:.40} is not done here; {allowed[0]!r} is")
    identity = values.get("identity")
    if not isinstance(identity, str | None):
        raise RefusedError(400, "invalid_field", "'identity' must be a text: a token, or a file in base64")
    request = {"prompt": values.get("prompt", ""), **_size(values.get("size"))}
    for name, argument in (
        ("n", "num_images_per_prompt"), ("seed", "seed"), ("num_inference_steps", "num_inference_steps")
    ):  # fmt: skip
        if (number := whole_number(name, values.get(name))) is not None:
            request[argument] = number
    if identity is None and not photos:
        request["base_alone"] = True
    people = () if identity is None else (identity,)
    job = await run_in_threadpool(service.portraits, client_of(http), request, identity=people, photos=photos)
    answer = await answered(http, service, job)
    data = [{"b64_json": picture["b64_json"]} for picture in answer["pictures"]]
    return JSONResponse({"created": int(time.time()), "data": data, "output_format": "png"})


def _size(value: Any) -> dict[str, int]:
    """Width and height of a request; none of them for "auto".

    Raises:
        RefusedError: it is no size.
    """
    if value in (None, "auto"):
        return {}
    if not isinstance(value, str) or not (found := re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", value, re.ASCII)):
        raise RefusedError(400, "invalid_field", f"size={value!r:.40} is not allowed; give WIDTHxHEIGHT, or 'auto'")
    return {"width": int(found[1]), "height": int(found[2])}

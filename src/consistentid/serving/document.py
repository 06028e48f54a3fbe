"""What the OpenAPI document says of bodies and answers. The fields of a request come from `Request` itself."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from typing import Any

Schema = dict[str, Any]

FILE: Schema = {"type": "string", "format": "binary"}
BASE64: Schema = {"type": "string", "description": "content of a file in base64, or a data URL of it"}
TEXT: Schema = {"type": "string"}
INTEGER: Schema = {"type": "integer"}
NUMBER: Schema = {"type": "number"}
BOOLEAN: Schema = {"type": "boolean"}
ALONE = BOOLEAN | {
    "description": "sample it by itself: the same bytes whatever else the service does, but later",
    "default": False,
}
EXAMPLE = {"prompt": "a woman in a red hat on a beach", "num_images_per_prompt": 2, "seed": 7}


def listed(item: Schema, **more: Any) -> Schema:
    """An array."""
    return {"type": "array", "items": item, **more}


def mapping(properties: Mapping[str, Schema], *required: str, **more: Any) -> Schema:
    """An object."""
    found: Schema = {"type": "object", "properties": dict(properties), **more}
    return found | ({"required": list(required)} if required else {})


def nullable(schema: Schema) -> Schema:
    """That, or null."""
    return {"anyOf": [schema, {"type": "null"}]}


PICTURE = mapping(
    {
        "b64_json": {"type": "string", "description": "PNG with its record and the mark of an AI-generated picture"},
        "prompt": TEXT,
        "seed": INTEGER,
        "likeness": nullable(NUMBER | {"description": "cosine to the identity; null = no face found"}),
        "withheld": BOOLEAN | {"description": "blacked out by the base's safety checker"},
        "width": INTEGER,
        "height": INTEGER,
        "people": listed({"type": "object"}, description="of several people: likeness and region of each"),
        "placement": {"type": "object", "description": "how several people were put where they are"},
        "repairs": listed({"type": "object"}, description="faces that were drawn anew"),
    }
)
PORTRAITS = mapping(
    {"pictures": listed(PICTURE), "record": {"type": "object"}, "warnings": listed(TEXT)}, "pictures", "record"
)
JOB = mapping(
    {
        "id": TEXT,
        "state": {"type": "string", "enum": ["queued", "running", "done", "failed", "cancelled"]},
        "position": INTEGER | {"description": "requests before it; 0 = it is its turn"},
        "stage": nullable(TEXT),
        "done": INTEGER | {"description": "sampling steps"},
        "total": INTEGER,
        "seconds_left": nullable(NUMBER),
        "result": PORTRAITS | {"description": "once done; given once, and then forgotten"},
        "error": {"type": "object"},
    },
    "id",
    "state",
)
IDENTITY = mapping(
    {
        "identity": {"type": "string", "description": "the identity file (safetensors, no photo inside) in base64"},
        "token": nullable(TEXT | {"description": "under which it is kept in memory, where the service does that"}),
        "expires_in": nullable(NUMBER | {"description": "seconds"}),
        "parts": listed(TEXT),
        "networks": {"type": "object"},
        "photos": listed(
            mapping(
                {
                    "photo": TEXT,
                    "faces": INTEGER,
                    "face_index": INTEGER,
                    "box": listed(NUMBER),
                    "quality": NUMBER,
                    "warnings": listed(TEXT),
                }
            )
        ),
        "warnings": listed(TEXT),
    },
    "identity",
    "photos",
)
ERROR = mapping(
    {"error": mapping({"message": TEXT, "type": TEXT, "param": nullable(TEXT), "code": TEXT}, "message", "code")},
    "error",
)
IDENTITY_FORM = mapping(
    {"photo": listed(FILE, minItems=1), "face_index": INTEGER, "skip_bad": BOOLEAN}, "photo", additionalProperties=False
)
IMAGES = mapping({"created": INTEGER, "data": listed(mapping({"b64_json": TEXT}))}, "created", "data")

_WORDS: Schema = {"type": "object", "additionalProperties": TEXT}
_SCALES: Schema = {"type": "object", "additionalProperties": NUMBER}

_TYPES: Mapping[str, Schema] = {
    "bool": BOOLEAN, "int": INTEGER, "float": NUMBER, "str": TEXT, "Photo": BASE64,
    "float | Sequence[float]": {"anyOf": [NUMBER, listed(NUMBER)]},
    "Sequence[str]": listed(TEXT),
    "Sequence[float]": listed(NUMBER),
    "str | Sequence[str | None]": {"anyOf": [TEXT, listed(nullable(TEXT))]},
    "Mapping[str, str] | Sequence[Mapping[str, str] | None]": {"anyOf": [_WORDS, listed(nullable(_WORDS))]},
    "Mapping[str, float] | Sequence[Mapping[str, float] | None]": {"anyOf": [_SCALES, listed(nullable(_SCALES))]},
    "Regions | Sequence[Region | None]": listed(
        {"anyOf": [listed(NUMBER, minItems=4, maxItems=4), BASE64, {"type": "null"}]}
    ),
    "str | Sequence[str]": {"anyOf": [TEXT, listed(TEXT, minItems=1)]},
    "int | Sequence[int]": {"anyOf": [INTEGER, listed(INTEGER)]},
}  # fmt: skip


@cache
def request_schema() -> Schema:
    """A sampling call, as `Request.from_dict` reads it, with the words of its docstring."""
    from consistentid.pipeline.request import Request, plain_arguments

    described: dict[str, str] = {}
    for names, words in re.findall(r"^ {8}([a-z_, ]+): (.+(?:\n {12}.+)*)", Request.__doc__ or "", re.MULTILINE):
        described |= {name: " ".join(words.split()) for name in names.split(", ")}
    plain = plain_arguments()
    types = {item.name: str(item.type).removesuffix(" | None") for item in fields(Request) if item.name in plain}
    properties = {name: {**_TYPES[kind], "description": described[name]} for name, kind in types.items()}
    return mapping(properties, "prompt", additionalProperties=False, example=EXAMPLE)


def portraits_json() -> Schema:
    """The body of a call for portraits, as JSON."""
    return mapping(
        {
            "request": request_schema(),
            "identity": {
                "anyOf": [TEXT, listed(TEXT)],
                "description": "the token of an identity, or its file in base64; several for several people",
            },
            "photos": listed(BASE64),
            "face_index": INTEGER,
            "skip_bad": BOOLEAN,
            "alone": ALONE,
            "background": BOOLEAN | {"description": "answer at once with a job", "default": False},
        },
        "request",
        additionalProperties=False,
    )


def portraits_form() -> Schema:
    """The same as a form."""
    return mapping(
        {
            "request": TEXT | {"description": "JSON", "contentMediaType": "application/json"},
            "photo": listed(FILE),
            "identity": {"anyOf": [TEXT, FILE]},
            "face_index": INTEGER,
            "skip_bad": BOOLEAN,
            "alone": ALONE,
            "background": BOOLEAN,
        },
        "request",
        additionalProperties=False,
    )


def body(**content: Schema) -> dict[str, Any]:
    """A request body: ``json`` and ``form`` with their schemas."""
    kinds = {"json": "application/json", "form": "multipart/form-data"}
    return {"requestBody": {"required": True, "content": {kinds[k]: {"schema": v} for k, v in content.items()}}}


def answers(ok: Schema, *refusals: int, status: int = 200) -> dict[int | str, dict[str, Any]]:
    """The answers of an operation: a good one, and refusals, all of one form."""
    known = {
        400: "not to be done like this", 401: "no token", 403: "a foreign page", 404: "not there",
        409: "cancelled", 413: "too large", 415: "of another type", 422: "no usable face, or another's identity",
        429: "too many wait; see Retry-After", 503: "the weights are being loaded; see Retry-After", 504: "too late",
    }  # fmt: skip
    found: dict[int | str, dict[str, Any]] = {
        status: {"description": "done", "content": {"application/json": {"schema": ok}}}
    }
    for code in (401, 403, *refusals):
        found[code] = {"description": known[code], "content": {"application/json": {"schema": ERROR}}}
    return found

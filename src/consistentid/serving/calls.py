"""What the routes share: whose call it is, its form and its plain fields, and waiting for its job."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.datastructures import FormData
from starlette.requests import Request as HttpRequest

from consistentid.serving.queue import Job
from consistentid.serving.refusal import RefusedError
from consistentid.serving.service import Service
from consistentid.serving.uploads import read_form

LOOK = 0.03
"""Seconds between two looks at a job or at whether its client is still there."""


def client_of(http: HttpRequest) -> str:
    """Whose request it is."""
    return str(http.state.client)


@asynccontextmanager
async def form_of(http: HttpRequest) -> AsyncIterator[FormData]:
    """A call's multipart form, whose files are let go of afterwards."""
    form = await read_form(http)
    try:
        yield form
    finally:
        await form.close()


def whole_number(name: str, value: Any) -> int | None:
    """A number from 0 that JSON or a form holds; None where there is none.

    Raises:
        RefusedError: it is no such number.
    """
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 10:
        return int(value)
    if value is None or (type(value) is int and 0 <= value < 10**9):
        return value
    raise RefusedError(400, "invalid_field", f"{name}={str(value)[:40]!r} is not allowed; give a number from 0")


def truth(name: str, value: Any) -> bool:
    """True or false of JSON or a form; false where there is none.

    Raises:
        RefusedError: it is neither.
    """
    known = {None: False, "false": False, "0": False, "": False, "true": True, "1": True}
    if isinstance(value, bool):
        return value
    if isinstance(value, str | None) and value in known:
        return known[value]
    raise RefusedError(400, "invalid_field", f"{name}={str(value)[:40]!r} is not allowed; give true or false")


async def answered(http: HttpRequest, service: Service, job: Job) -> Any:
    """The answer of a job, for which its client waits; should the client leave, or the server end, so does the job.

    Raises:
        RefusedError: there is none.
    """
    try:
        while not job.finished:
            if await http.is_disconnected():
                raise RefusedError(499, "gone", "the client has left")
            await asyncio.sleep(LOOK)
            if job.stopped():
                service.queue.tidy()
    finally:
        service.queue.cancel(job)
    if job.error is not None:
        raise job.error
    return job.answer

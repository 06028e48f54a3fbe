"""The page on the application at `/`: built in the background, and no more of Gradio than a browser needs of it.

Gradio takes seconds to import, and the service answers before: until then a page says what is being waited for. Of
Gradio's routes those are closed that would write an upload to a disk, read files, or change the page's code.
"""

from __future__ import annotations

import asyncio
import os
import re
import tempfile
import warnings
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from importlib.util import find_spec
from typing import Any

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.responses import HTMLResponse, PlainTextResponse
from starlette.routing import Match, Mount
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from consistentid.presets.preset import Preset
from consistentid.serving.logs import event
from consistentid.serving.page import STATIC
from consistentid.serving.service import Service

_OPEN = re.compile(
    r"/|/(config|theme\.css|favicon\.ico|manifest\.json|robots\.txt)|/(assets|static|svelte)/.+"
    r"|/gradio_api/(queue/(join|data)|cancel|reset|component_server|startup-events|heartbeat/\w+)/?"
)
"""Paths of Gradio that a browser needs."""

_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline';"
    " img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; object-src 'none';"
    " base-uri 'self'; form-action 'none'; frame-ancestors 'none'"
)
"""Whatever is on the page, the browser asks nobody but this service."""


def available() -> bool:
    """Whether Gradio is installed."""
    return find_spec("gradio") is not None


class Page:
    """An ASGI application: Gradio's, once it is built.

    Args:
        service: does what the page asks.
        preset: the one that it serves.
    """

    def __init__(self, service: Service, preset: Preset) -> None:
        self._service, self._preset = service, preset
        self._app: ASGIApp | None = None
        self._failed = ""

    def mount(self, app: FastAPI) -> None:
        """At `/`, behind all routes that the application has."""
        app.router.routes.append(_Rest(app, self))

    @asynccontextmanager
    async def running(self, then: Callable[[], object]) -> AsyncIterator[None]:
        """While the application runs; `then` is called when the page is there, as imports hinder one another."""
        task = asyncio.create_task(self._run(then))
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _run(self, then: Callable[[], object]) -> None:
        with tempfile.TemporaryDirectory(prefix="consistentid-page-") as folder:
            try:
                app = await run_in_threadpool(self._build, folder)
                async with app.router.lifespan_context(app):
                    self._app = app
                    event("page ready")
                    then()
                    await asyncio.Event().wait()
            except Exception as error:
                self._failed = "The page cannot be shown; the log says why. The service under /v1 works."
                event("page failed", error=type(error).__name__, message=str(error))
                then()
            finally:
                self._app = None

    def _build(self, folder: str) -> FastAPI:
        os.environ["GRADIO_TEMP_DIR"] = folder  # it makes folders there when it is imported; nothing is put into them
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from consistentid.serving.page.blocks import build

            return build(self._service, self._preset)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""

        async def with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["Content-Security-Policy"] = _POLICY
                headers["Referrer-Policy"] = "no-referrer"
                headers["X-Content-Type-Options"] = "nosniff"
            await send(message)

        app = self._app
        if scope["type"] != "http" or app is None:
            app = HTMLResponse(self._starting(), 503 if self._failed else 200, {"Cache-Control": "no-store"})
        if not _OPEN.fullmatch(scope["path"]):
            app = PlainTextResponse("there is nothing at this path; see /openapi.json\n", 404)
        await app(scope, receive, with_policy)

    def _starting(self) -> str:
        again = "" if self._failed else '<meta http-equiv="refresh" content="1">'
        text = self._failed or "One moment: the page is being put together&hellip;"
        return (STATIC / "starting.html").read_text().replace("{{again}}", again).replace("{{text}}", text)


class _Rest(Mount):
    """Whatever no other route knows, by any method."""

    def __init__(self, app: FastAPI, page: Page) -> None:
        super().__init__("/", page)
        self._known = list(app.router.routes)

    def matches(self, scope: Scope) -> tuple[Match, Any]:
        """Nothing of the service's own, whose refusals have a form of their own."""
        path = scope.get("path", "")
        if path.startswith("/v1/") or any(route.matches(scope)[0] is not Match.NONE for route in self._known):
            return Match.NONE, {}
        return super().matches(scope)

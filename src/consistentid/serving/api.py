"""The HTTP service: `create_app` puts a `Service` under `/v1`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import HTTPException
from fastapi.openapi.utils import get_openapi
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from consistentid.errors import ConsistentIDError
from consistentid.files.base64 import to_base64
from consistentid.serving import document as doc
from consistentid.serving.access import Access
from consistentid.serving.calls import LOOK, answered, client_of, form_of, truth, whole_number
from consistentid.serving.images import add_images
from consistentid.serving.metrics import Observed
from consistentid.serving.page.mount import Page
from consistentid.serving.queue import Job
from consistentid.serving.refusal import RefusedError, refusal_of
from consistentid.serving.service import Service
from consistentid.serving.uploads import BodyLimit, from_base64, parse_json, read_json, text_fields, uploaded

_TIDY = 5.0
_TRUTHS = ("skip_bad", "alone", "background")
_VERSION = version("consistentid")

_ABOUT = """Portraits of a person from photos and a prompt. Use photos only of people who agree to it.

Nothing about a person is kept after the answer, unless the administrator lets identities be kept for a while."""


def create_app(service: Service, access: Access | None = None, page: Page | None = None) -> FastAPI:
    """The application.

    Args:
        service: does the work; loads its weights when the application starts, and ends with it.
        access: who may use it; by default everybody on this machine.
        page: for browsers, at `/`.
    """
    access = access or Access()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        tidying = asyncio.create_task(_tidied(service))
        try:
            if page is None:
                service.start()
                yield
            else:
                async with page.running(then=service.start):
                    yield
        finally:
            tidying.cancel()
            with suppress(asyncio.CancelledError):
                await tidying
            await run_in_threadpool(service.close)

    # The pages for browsers that FastAPI brings would fetch their scripts from elsewhere.
    app = FastAPI(title="consistentid", version=_VERSION, docs_url=None, redoc_url=None, lifespan=lifespan)
    app.state.service = service
    # The last one added is the first that a request meets.
    app.add_middleware(BodyLimit, most=service.limits.body_bytes)
    app.add_middleware(_Admitted, access=access)
    app.add_middleware(Observed, metrics=service.metrics)
    app.add_exception_handler(ConsistentIDError, _refused)
    app.add_exception_handler(HTTPException, _not_found)
    app.add_exception_handler(404, _not_found)
    app.add_exception_handler(405, _not_found)
    app.openapi = _document(app)  # type: ignore[method-assign]
    _add_state(app, service)
    _add_identities(app, service)
    _add_portraits(app, service)
    _add_jobs(app, service)
    add_images(app, service)
    if page is not None:
        page.mount(app)
    return app


# -------------------------------------------------------------------------------------------------------------- routes


def _add_state(app: FastAPI, service: Service) -> None:
    @app.get("/health", tags=["state"], summary="Whether the process answers")
    async def health() -> dict[str, str]:
        return {"status": "ok", "version": _VERSION}

    @app.get(
        "/ready", tags=["state"], summary="Whether the weights are loaded", responses={503: {"description": "not yet"}}
    )
    async def ready() -> JSONResponse:
        told = {
            "state": service.state,
            "preset": service.preset,
            "stage": service.stage,
            "loaded": service.loaded,
            "waiting": len(service.queue),
            "jobs": not service.shared,
        }
        return JSONResponse(told, 200 if service.state == "ready" else 503)

    @app.get(
        "/metrics", tags=["state"], summary="Numbers for Prometheus", response_class=Response,
        responses={404: doc.answers({}, 404)[404]},
    )  # fmt: skip
    async def metrics() -> Response:
        if service.shared:
            raise RefusedError(
                404, "no_metrics", "several replicas answer here, each with numbers of its own; ask Ray for its metrics"
            )
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_identities(app: FastAPI, service: Service) -> None:
    @app.post(
        "/v1/identities", tags=["identities"], summary="Who is on one or several photos of a person",
        openapi_extra=doc.body(form=doc.IDENTITY_FORM),
        responses=doc.answers(doc.IDENTITY, 400, 413, 415, 422, 429, 503, 504),
    )  # fmt: skip
    async def identify(http: HttpRequest) -> JSONResponse:
        async with form_of(http) as form:
            texts = text_fields(form, {"face_index": "a number", "skip_bad": "true or false"}, ("photo", "photo[]"))
            photos = await uploaded(form, "photo", "photo[]")
        index = whole_number("face_index", texts.get("face_index"))
        skip = truth("skip_bad", texts.get("skip_bad"))
        job = await run_in_threadpool(service.identify, client_of(http), photos, index, skip_bad=skip)
        return JSONResponse(await answered(http, service, job))

    @app.delete(
        "/v1/identities/{token}", tags=["identities"], summary="Forget an identity that is kept", status_code=204,
        responses=doc.answers({}, 404, status=204),
    )  # fmt: skip
    async def forget(http: HttpRequest, token: str) -> Response:
        service.forget(client_of(http), token)
        return Response(status_code=204)


def _add_portraits(app: FastAPI, service: Service) -> None:
    made = {**doc.answers(doc.PORTRAITS, 400, 404, 413, 415, 422, 429, 503, 504), **doc.answers(doc.JOB, status=202)}

    @app.post(
        "/v1/portraits", tags=["portraits"], summary="Pictures of a person",
        description="Answers with the pictures, or, with `background`, at once with a job (202).",
        responses=made,
    )  # fmt: skip
    async def portraits(http: HttpRequest) -> JSONResponse:
        return await _portrayed(http, service)

    @app.post(
        "/v1/repairs", tags=["portraits"], summary="Small faces of a picture drawn anew, and nothing else",
        description="As portraits; the picture is the request's `image`, and `repair_below` takes larger faces, too.",
        responses=made,
    )  # fmt: skip
    async def repairs(http: HttpRequest) -> JSONResponse:
        return await _portrayed(http, service, repair=True)


def _add_jobs(app: FastAPI, service: Service) -> None:
    @app.get(
        "/v1/jobs/{id}", tags=["jobs"], summary="How far a job is; its pictures once it is done",
        description="The pictures are given once: with the answer they are forgotten.",
        responses=doc.answers(doc.JOB, 404),
    )  # fmt: skip
    async def look(http: HttpRequest, id: str) -> JSONResponse:
        job = service.job(client_of(http), id)
        # only what was sent to the end is forgotten
        forget = BackgroundTask(service.drop, job) if job.finished else None
        return JSONResponse(_told(service, job, result=True), background=forget)

    @app.get(
        "/v1/jobs/{id}/events", tags=["jobs"], summary="A job's progress as server-sent events",
        description="Events `progress`, and at the end `done`, `failed` or `cancelled`; the data is as of the job,"
        " without its pictures. With `?preview=true` also `preview`: the pictures so far, PNG in base64.",
        response_class=StreamingResponse,
        responses={
            200: {"description": "events", "content": {"text/event-stream": {}}}, 404: doc.answers({}, 404)[404]
        },
    )  # fmt: skip
    async def events(http: HttpRequest, id: str, preview: bool = False) -> StreamingResponse:
        job = service.job(client_of(http), id)
        return StreamingResponse(
            _events(service, job, preview=preview),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store"},
        )

    @app.delete(
        "/v1/jobs/{id}", tags=["jobs"], summary="Cancel a job, and forget it", status_code=204,
        responses=doc.answers({}, 404, status=204),
    )  # fmt: skip
    async def cancel(http: HttpRequest, id: str) -> Response:
        service.drop(service.job(client_of(http), id))
        return Response(status_code=204)


# ------------------------------------------------------------------------------------------------------ what was asked


async def _portrayed(http: HttpRequest, service: Service, *, repair: bool = False) -> JSONResponse:
    """The pictures of a call, or its job."""
    call = await _portraits_call(http)
    background = call.pop("background")
    job = await run_in_threadpool(service.portraits, client_of(http), keep=background, repair=repair, **call)
    if background:
        return JSONResponse(_told(service, job), 202, {"Location": f"/v1/jobs/{job.id}"})
    return JSONResponse(await answered(http, service, job))


async def _portraits_call(http: HttpRequest) -> dict[str, Any]:
    """The arguments of `Service.portraits`, and "background", of a form or a JSON document."""
    if http.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        async with form_of(http) as form:
            files = [await uploaded(form, "photo", "photo[]")]
            kept = form.get("identity")
            sent = None if kept is None or isinstance(kept, str) else await kept.read()
            truths = dict.fromkeys(_TRUTHS, "true or false")
            known = {"request": "JSON", "face_index": "a number", **truths}
            if isinstance(kept, str):
                known["identity"] = "a token, or a file"
            texts = text_fields(form, known, ("photo", "photo[]", *(("identity",) if sent is not None else ())))
        identity = texts.get("identity") if sent is None else to_base64(sent)
        return {
            "values": parse_json(texts.get("request", "{}"), "the field 'request'"),
            "identity": () if identity is None else (identity,),
            "photos": files[0],
            "face_index": whole_number("face_index", texts.get("face_index")),
            **{name: truth(name, texts.get(name)) for name in truths},
        }
    values = await read_json(http)
    known_names = ("request", "identity", "photos", "face_index", *_TRUTHS)
    if unknown := [name for name in values if name not in known_names]:
        raise RefusedError(
            400, "unknown_field", f"unknown field {unknown[0][:60]!r}; known are {', '.join(known_names)}"
        )
    wanted, identity, photos = values.get("request"), values.get("identity"), values.get("photos") or []
    if not isinstance(wanted, dict):
        raise RefusedError(400, "invalid_field", '\'request\' must be an object, such as {"prompt": "a woman"}')
    people = [] if identity is None else identity if isinstance(identity, list) else [identity]
    if not all(isinstance(person, str) for person in people) or not isinstance(photos, list):
        raise RefusedError(400, "invalid_field", "'identity' must be a text or several, 'photos' a list of files")
    return {
        "values": wanted,
        "identity": people,
        "photos": [from_base64(photo, f"photo {number}") for number, photo in enumerate(photos, 1)],
        "face_index": whole_number("face_index", values.get("face_index")),
        **{name: truth(name, values.get(name)) for name in _TRUTHS},
    }


# ---------------------------------------------------------------------------------------------------- what is answered


def _told(service: Service, job: Job, *, result: bool = False) -> dict[str, Any]:
    progress = {"stage": None, "done": 0, "total": 0, "seconds_left": None, **job.progress}
    told = {"id": job.id, "state": job.state, "position": service.queue.position(job), **progress}
    if job.error is not None:
        told |= job.error.body()
    if result and job.state == "done":
        told["result"] = job.answer
    return told


async def _events(service: Service, job: Job, *, preview: bool) -> AsyncIterator[str]:
    def event(name: str, data: Any) -> str:
        return f"event: {name}\ndata: {json.dumps(data)}\n\n"

    job.watched += preview
    last: Any = None
    shown: list[str] = []
    silent = 0.0
    try:
        while not job.finished:
            if job.stopped():
                service.queue.tidy()
            told = _told(service, job)
            silent += LOOK
            if told != last:
                last, silent = told, 0.0
                yield event("progress", told)
            elif silent > 15:  # proxies close what is silent for long
                silent = 0.0
                yield ": still there\n\n"
            if preview and job.previews and job.previews is not shown:
                shown = job.previews
                yield event("preview", {"pictures": shown})
            await asyncio.sleep(LOOK)
        yield event(job.state, _told(service, job))
    finally:
        job.watched -= preview


def _answer(refusal: RefusedError) -> JSONResponse:
    return JSONResponse(refusal.body(), refusal.status, refusal.headers)


async def _refused(_: HttpRequest, error: Exception) -> JSONResponse:
    return _answer(refusal_of(error))


async def _not_found(http: HttpRequest, error: Exception) -> JSONResponse:
    status = getattr(error, "status_code", 404)
    words = {404: "there is nothing at this path", 405: f"{http.method} is not for this path"}
    message = words.get(status, str(getattr(error, "detail", "refused")))
    return _answer(RefusedError(status, "no_route", f"{message}; see /openapi.json"))


class _Admitted:
    """An application into which `Access` lets whom it knows."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app, self._access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            try:
                scope.setdefault("state", {})["client"] = self._access.client(scope)
            except RefusedError as refusal:
                await _answer(refusal)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _document(app: FastAPI) -> Callable[[], dict[str, Any]]:
    """The OpenAPI document, made when first asked for: the words about a request load torch."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            made = get_openapi(title=app.title, version=app.version, description=_ABOUT, routes=app.routes)
            for path in ("/v1/portraits", "/v1/repairs"):
                made["paths"][path]["post"] |= doc.body(json=doc.portraits_json(), form=doc.portraits_form())
            made["components"] = made.get("components", {}) | {
                "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}
            }
            made["security"] = [{}, {"token": []}]
            app.openapi_schema = made
        return app.openapi_schema

    return openapi


async def _tidied(service: Service) -> None:
    while True:
        await asyncio.sleep(_TIDY)
        service.tidy()
        service.queue.tidy()

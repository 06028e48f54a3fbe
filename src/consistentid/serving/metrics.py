"""What Prometheus reads of the service: numbers, nothing of anybody."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from consistentid.serving.logs import event
from consistentid.serving.queue import Job

_SECONDS = (0.01, 0.05, 0.25, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """Counters of one application."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "consistentid_http_requests", "HTTP requests", ["method", "route", "status"], registry=self.registry
        )
        self.request_seconds = Histogram(
            "consistentid_http_request_seconds", "Until the answer was sent", ["route"],
            buckets=_SECONDS, registry=self.registry,
        )  # fmt: skip
        self.jobs = Counter("consistentid_jobs", "Work by its outcome", ["kind", "state"], registry=self.registry)
        self.together = Histogram(
            "consistentid_together", "Requests that were done together", ["kind"],
            buckets=(1, 2, 3, 4, 6, 8, 12, 16), registry=self.registry,
        )  # fmt: skip
        self.pictures = Counter("consistentid_pictures", "Pictures made", registry=self.registry)

    def gauge(self, name: str, help: str, read: Callable[[], float]) -> None:
        """A number that is read when it is asked for."""
        Gauge(f"consistentid_{name}", help, registry=self.registry).set_function(read)

    def observe(self, job: Job) -> None:
        """A job has ended."""
        self.jobs.labels(job.kind, job.state).inc()
        if job.kind == "portraits" and job.state == "done":
            self.pictures.inc(len(job.answer["pictures"]))

    def observe_taken(self, jobs: Sequence[Job]) -> None:
        """Jobs are done together."""
        self.together.labels(jobs[0].kind).observe(len(jobs))

    def text(self) -> bytes:
        """In the format of Prometheus."""
        return generate_latest(self.registry)


class Observed:
    """An application of which each HTTP request is counted, and noted in the log."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, began = 499, time.monotonic()  # 499: the client left before the answer, as nginx has it

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            # the route's pattern, as a path may hold a job's id
            route = getattr(scope.get("route"), "path", "unknown")
            seconds = time.monotonic() - began
            known = scope["method"] if scope["method"] in ("GET", "POST", "DELETE", "HEAD", "OPTIONS") else "other"
            self._metrics.requests.labels(known, route, str(status)).inc()
            self._metrics.request_seconds.labels(route).observe(seconds)
            event("request", method=known, route=route, status=status, seconds=round(seconds, 3))

"""One worker, which samples, and the bounded queue before it."""

from __future__ import annotations

import math
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from consistentid.errors import CancelledError
from consistentid.serving.limits import Limits
from consistentid.serving.logs import unexpected
from consistentid.serving.refusal import RefusedError, refusal_of

State = Literal["queued", "running", "done", "failed", "cancelled"]


@dataclass(eq=False)
class Job:
    """Something for the worker to do.

    Attributes:
        kind: what it is, for logs and metrics.
        client: whose it is.
        work: called by the worker with this job; returns the answer.
        deadline: `time.monotonic()` after which nobody wants it any more.
        id: not to be guessed.
        state: where it is.
        progress: of the sampling: "stage", "done", "total", "seconds_left".
        previews: of the pictures so far, PNG in base64; only made while `watched` says that somebody looks.
        answer, error: what came of it.
        ended: `time.monotonic()` at its end.
    """

    kind: str
    client: str
    work: Callable[[Job], Any]
    deadline: float
    id: str = field(default_factory=lambda: secrets.token_urlsafe(18))
    state: State = "queued"
    progress: Mapping[str, Any] = field(default_factory=dict)
    previews: list[str] = field(default_factory=list)
    watched: int = 0
    answer: Any = None
    error: RefusedError | None = None
    ended: float = math.inf
    _stop: threading.Event = field(default_factory=threading.Event)

    @property
    def finished(self) -> bool:
        """Whether nothing more will come."""
        return self.state in ("done", "failed", "cancelled")

    def stopped(self) -> bool:
        """Whether it shall end at the next chance: cancelled, or too late."""
        return self._stop.is_set() or time.monotonic() > self.deadline

    def end(self, state: State, answer: Any = None, error: RefusedError | None = None) -> None:
        """Nothing more will come."""
        self.answer, self.error, self.ended = answer, error, time.monotonic()
        self.state = state  # last: who sees it finds the answer


class Queue:
    """Jobs in order of arrival, and the thread that does them one by one.

    Args:
        limits: how many wait, and how long.
        observe: called with each job at its end.
    """

    def __init__(self, limits: Limits, observe: Callable[[Job], object]) -> None:
        self._limits, self._observe = limits, observe
        self._waiting: deque[Job] = deque()
        self._running: Job | None = None
        self._changed = threading.Condition()
        self._closed = False
        self._seconds = 2.0  # a job takes, running mean
        self._thread = threading.Thread(target=self._run, name="sampling", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def running(self) -> Job | None:
        """What the worker does."""
        return self._running

    def submit(self, kind: str, client: str, work: Callable[[Job], Any]) -> Job:
        """Puts work into the queue.

        Raises:
            RefusedError: 429, the queue is full or holds too much of this client; 503 after `close`.
        """
        job = Job(kind, client, work, time.monotonic() + self._limits.seconds)
        with self._changed:
            if self._closed:
                raise RefusedError(503, "closing", "the service is being stopped; try again later", 10)
            self._drop_late()
            own = sum(other.client == client for other in (*self._waiting, *filter(None, [self._running])))
            if len(self._waiting) >= self._limits.waiting:
                raise self._full(f"{len(self._waiting)} requests are waiting, and no more may")
            if own >= self._limits.waiting_per_client:
                raise self._full(f"{own} requests of this client are not done yet, and no more may be")
            self._waiting.append(job)
            self._changed.notify()
        return job

    def position(self, job: Job) -> int:
        """How many are before it, the running one included; 0 when it is that, or finished."""
        with self._changed:
            return self._waiting.index(job) + (self._running is not None) if job in self._waiting else 0

    def cancel(self, job: Job) -> None:
        """Frees a waiting job's place at once; a running one ends at its next step."""
        job._stop.set()
        with self._changed:
            if job in self._waiting:
                self._waiting.remove(job)
                job.end("cancelled", error=refusal_of(CancelledError()))
                self._observe(job)

    def tidy(self) -> None:
        """Gives up what has waited too long."""
        with self._changed:
            self._drop_late()

    def close(self, seconds: float = 30) -> None:
        """Cancels everything and waits for the worker."""
        with self._changed:
            self._closed = True
            running = self._running
            self._changed.notify_all()
        for job in [*self._waiting, *filter(None, [running])]:
            self.cancel(job)
        self._thread.join(seconds)

    def _full(self, reason: str) -> RefusedError:
        seconds = max(1, math.ceil(self._seconds * (len(self._waiting) + 1)))
        return RefusedError(429, "busy", f"{reason}; try again in about {seconds} s", seconds)

    def _drop_late(self) -> None:
        for job in [job for job in self._waiting if job.stopped()]:
            self._waiting.remove(job)
            job.end("failed", error=self._late())
            self._observe(job)

    def _late(self) -> RefusedError:
        return RefusedError(
            504, "too_late", f"not done within {self._limits.seconds:g} s; ask for less, or when fewer are waiting", 60
        )

    def _run(self) -> None:
        while True:
            with self._changed:
                self._running = None
                while not self._waiting and not self._closed:
                    self._changed.wait()
                if self._closed:
                    return
                self._drop_late()
                if not self._waiting:
                    continue
                job = self._running = self._waiting.popleft()
            job.state = "running"
            began = time.monotonic()
            try:
                answer = job.work(job)
            except Exception as error:  # whatever it is, the next job is done
                self._failed(job, error)
            else:
                self._seconds += 0.2 * (time.monotonic() - began - self._seconds)
                job.end("done", answer)
            job.previews = []
            self._observe(job)

    def _failed(self, job: Job, error: Exception) -> None:
        if isinstance(error, CancelledError):
            if job._stop.is_set():
                job.end("cancelled", error=refusal_of(error))
            else:
                job.end("failed", error=self._late())
            return
        refusal = refusal_of(error)
        if refusal.status >= 500:
            unexpected(job.kind, error)
        job.end("failed", error=refusal)

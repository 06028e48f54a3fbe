"""One worker, which samples, and the bounded queue before it; what may be sampled together is taken together."""

from __future__ import annotations

import math
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from consistentid.errors import CancelledError
from consistentid.serving.limits import Limits
from consistentid.serving.logs import unexpected
from consistentid.serving.refusal import RefusedError, refusal_of

State = Literal["queued", "running", "done", "failed", "cancelled"]


@dataclass(frozen=True)
class Share:
    """How a job may be done together with others of any client: with those of the same `key`.

    Attributes:
        key: what they must have in common.
        most: how many rows are done together, at most; also the same for all.
        work: called with the jobs, in order of arrival; returns of each the answer, or the error that is its alone.
        rows: how many of them are this job's.
    """

    key: Hashable
    most: int
    work: Callable[[Sequence[Job]], Sequence[Any]]
    rows: int = 1

    def suits(self, other: Share) -> bool:
        """Whether both may be done together."""
        return (self.key, self.most, self.work) == (other.key, other.most, other.work)


@dataclass(eq=False)
class Job:
    """Something for the worker to do.

    Attributes:
        kind: what it is, for logs and metrics.
        client: whose it is.
        work: called by the worker with this job; returns the answer.
        share: with whom it may be done together.
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
    share: Share | None = None
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
    """Jobs in order of arrival, and the thread that does them: one by one, or those together that may be.

    When the worker is free it takes the job that has waited longest and, of those behind it, the ones that suit it,
    until the batch is full. Nobody waits for company. A job that is cancelled or late is at its end at once, also in
    the midst of a batch, whose others go on; one that is done alone frees the worker at its next step.

    Args:
        limits: how many wait, and how long.
        observe: called with each job at its end.
        taken: called with the jobs that are done together, or with the one alone, before they are.
    """

    def __init__(
        self,
        limits: Limits,
        observe: Callable[[Job], object],
        taken: Callable[[Sequence[Job]], object] = lambda _: None,
    ) -> None:
        self._limits, self._observe, self._observe_taken = limits, observe, taken
        self._waiting: deque[Job] = deque()
        self._running: list[Job] = []
        self._changed = threading.Condition()
        self._closed = False
        self._seconds = 2.0  # a job takes, running mean
        self._thread = threading.Thread(target=self._run, name="sampling", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def running(self) -> int:
        """How many jobs the worker does at this moment."""
        return len(self._running)

    def submit(self, kind: str, client: str, work: Callable[[Job], Any], share: Share | None = None) -> Job:
        """Puts work into the queue.

        Raises:
            RefusedError: 429, the queue is full or holds too much of this client; 503 after `close`.
        """
        job = Job(kind, client, work, time.monotonic() + self._limits.seconds, share)
        with self._changed:
            if self._closed:
                raise RefusedError(503, "closing", "the service is being stopped; try again later", 10)
            self._drop_late()
            theirs = [other for other in (*self._waiting, *self._running) if other.client == client]
            own = sum(not other.finished for other in theirs)
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
            return self._waiting.index(job) + len(self._running) if job in self._waiting else 0

    def cancel(self, job: Job) -> None:
        """Ends a job at once, and frees its place; the worker leaves a running one at its next step."""
        with self._changed:
            job._stop.set()
            if job in self._waiting:
                self._waiting.remove(job)
            self._end(job, "cancelled", error=refusal_of(CancelledError()))

    def tidy(self) -> None:
        """Gives up what takes too long."""
        with self._changed:
            self._drop_late()

    def close(self, seconds: float = 30) -> None:
        """Cancels everything and waits for the worker."""
        with self._changed:
            self._closed = True
            jobs = [*self._waiting, *self._running]
            self._changed.notify_all()
        for job in jobs:
            self.cancel(job)
        self._thread.join(seconds)

    def _full(self, reason: str) -> RefusedError:
        seconds = max(1, math.ceil(self._seconds * (len(self._waiting) + 1)))
        return RefusedError(429, "busy", f"{reason}; try again in about {seconds} s", seconds)

    def _drop_late(self) -> None:
        for job in [job for job in (*self._waiting, *self._running) if job.stopped()]:
            if job in self._waiting:
                self._waiting.remove(job)
            self._failed(job, CancelledError())

    def _end(self, job: Job, state: State, answer: Any = None, error: RefusedError | None = None) -> None:
        with self._changed:
            if job.finished:  # the client left, or it was too late, while the worker was at it
                return
            job.end(state, answer, error)
        self._observe(job)

    def _late(self) -> RefusedError:
        return RefusedError(
            504, "too_late", f"not done within {self._limits.seconds:g} s; ask for less, or when fewer are waiting", 60
        )

    def _run(self) -> None:
        while not self._closed:
            self._step()

    def _step(self) -> None:
        """Waits for jobs and does them. What is known of them is known in here alone, and so is gone with them."""
        jobs = self._taken()
        began = time.monotonic()
        for job, answer in zip(jobs, self._done(jobs), strict=True):
            if isinstance(answer, Exception):
                self._failed(job, answer)
            else:
                self._end(job, "done", answer)
            job.previews = []
        with self._changed:
            self._running = []
            if jobs:
                self._seconds += 0.2 * ((time.monotonic() - began) / len(jobs) - self._seconds)

    def _taken(self) -> list[Job]:
        """Waits for a job; takes the one that has waited longest, and those that are done together with it."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            self._drop_late()
            if not self._waiting or self._closed:
                return []
            self._running = self._together(self._waiting.popleft())
            for job in self._running:
                job.state = "running"
            self._observe_taken(self._running)
            return self._running

    def _together(self, first: Job) -> list[Job]:
        jobs, share = [first], first.share
        if share is None:
            return jobs
        rows = share.rows
        for job in list(self._waiting):
            other = job.share
            if other is not None and share.suits(other) and rows + other.rows <= share.most:
                rows += other.rows
                jobs.append(job)
                self._waiting.remove(job)
        return jobs

    def _done(self, jobs: list[Job]) -> Sequence[Any]:
        """Of each job the answer or the error; whatever it is, the next job is done, also after what ends threads."""
        try:
            if len(jobs) > 1 and (share := jobs[0].share):
                answers = list(share.work(jobs))
                return answers if len(answers) == len(jobs) else [RuntimeError("answers are missing")] * len(jobs)
            return [job.work(job) for job in jobs]
        except Exception as error:
            return [error] * len(jobs)
        except BaseException as end:
            return [RuntimeError(f"ended by {type(end).__name__}").with_traceback(end.__traceback__)] * len(jobs)

    def _failed(self, job: Job, error: Exception) -> None:
        if isinstance(error, CancelledError):
            late = not job._stop.is_set()
            self._end(job, "failed" if late else "cancelled", error=self._late() if late else refusal_of(error))
            return
        refusal = refusal_of(error)
        if refusal.status >= 500:
            unexpected(job.kind, error)
        self._end(job, "failed", error=refusal)

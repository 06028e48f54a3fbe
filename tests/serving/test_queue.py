from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from consistentid.errors import CancelledError, NoFaceError
from consistentid.serving.limits import Limits
from consistentid.serving.queue import Job, Queue
from consistentid.serving.refusal import RefusedError


class Gate:
    """Work that lasts until it is let go or stopped."""

    def __init__(self) -> None:
        self.began, self.go = threading.Event(), threading.Event()

    def __call__(self, job: Job) -> str:
        self.began.set()
        while not self.go.wait(0.005):
            if job.stopped():
                raise CancelledError("stopped")
        return "done"


@pytest.fixture
def make() -> Iterator[Callable[..., Queue]]:
    queues = []

    def make(**limits: Any) -> Queue:
        queues.append(Queue(Limits(**limits), ended.append))
        return queues[-1]

    ended: list[Job] = []
    yield make
    for queue in queues:
        queue.close()
        assert not any(thread is queue._thread for thread in threading.enumerate())


def wait(job: Job) -> Job:
    for _ in range(1000):
        if job.finished:
            return job
        time.sleep(0.005)
    raise AssertionError(job.state)


def test_order_bounds_and_places_that_become_free(make: Callable[..., Queue]) -> None:
    queue, gate = make(waiting=2, waiting_per_client=2), Gate()
    running = queue.submit("x", "ada", gate)
    assert gate.began.wait(5)
    second = queue.submit("x", "ada", lambda job: 2)
    with pytest.raises(RefusedError, match="of this client") as refused:
        queue.submit("x", "ada", lambda job: 3)
    assert refused.value.status == 429
    assert int(refused.value.headers["Retry-After"]) >= 1
    third = queue.submit("x", "tom", lambda job: 3)
    with pytest.raises(RefusedError, match="2 requests are waiting"):
        queue.submit("x", "eve", lambda job: 4)
    assert [queue.position(job) for job in (running, second, third)] == [0, 1, 2]
    queue.cancel(second)
    assert second.state == "cancelled"
    fourth = queue.submit("x", "eve", lambda job: 4)
    gate.go.set()
    assert [wait(job).answer for job in (running, third, fourth)] == ["done", 3, 4]


def test_what_runs_is_cancelled_and_what_is_late_is_given_up(make: Callable[..., Queue]) -> None:
    queue, gate = make(seconds=1), Gate()
    running = queue.submit("x", "ada", gate)
    assert gate.began.wait(5)
    waiting = queue.submit("x", "ada", lambda job: 1)
    waiting.deadline = 0
    queue.tidy()
    assert waiting.error is not None
    assert waiting.error.status == 504
    queue.cancel(running)
    assert wait(running).state == "cancelled"
    late = wait(queue.submit("x", "ada", Gate()))
    assert (late.state, late.error and late.error.status) == ("failed", 504)


def test_an_error_is_its_jobs_alone_and_says_nothing_of_the_inside(make: Callable[..., Queue]) -> None:
    queue = make()

    def fail(error: BaseException) -> Callable[[Job], None]:
        def work(job: Job) -> None:
            raise error

        return work

    known = wait(queue.submit("x", "ada", fail(NoFaceError("no face found in photo 1"))))
    inner = wait(queue.submit("x", "ada", fail(RuntimeError("the prompt was: secret"))))
    memory = wait(queue.submit("x", "ada", fail(MemoryError())))
    assert known.error is not None
    assert (known.error.status, str(known.error)) == (422, "no face found in photo 1")
    for job in (inner, memory):
        assert job.error is not None
        assert job.error.status == 500
        assert "secret" not in str(job.error.body())
    assert wait(queue.submit("x", "ada", lambda job: 5)).answer == 5

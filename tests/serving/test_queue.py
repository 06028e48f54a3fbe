from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from consistentid.errors import CancelledError, NoFaceError
from consistentid.serving.limits import Limits
from consistentid.serving.queue import Job, Queue, Share
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
    for _ in range(24_000):
        if job.finished:
            return job
        time.sleep(0.005)
    raise AssertionError(job.state)


def test_order_bounds_and_places_that_become_free(make: Callable[..., Queue]) -> None:
    queue, gate = make(waiting=2, waiting_per_client=2), Gate()
    running = queue.submit("x", "ada", gate)
    assert gate.began.wait(120)
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
    assert gate.began.wait(120)
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
    ended = wait(queue.submit("x", "ada", fail(SystemExit("secret"))))  # which would end the worker's thread
    assert known.error is not None
    assert (known.error.status, str(known.error)) == (422, "no face found in photo 1")
    for job in (inner, memory, ended):
        assert job.error is not None
        assert job.error.status == 500
        assert "secret" not in str(job.error.body())
    assert wait(queue.submit("x", "ada", lambda job: 5)).answer == 5


class Together:
    """Work that jobs do together; it notes with whom, and lasts until it is let go."""

    def __init__(self) -> None:
        self.groups: list[list[str]] = []
        self.began, self.go = threading.Event(), threading.Event()

    def __call__(self, jobs: Sequence[Job]) -> list[Any]:
        self.groups.append([job.client for job in jobs])
        self.began.set()
        assert self.go.wait(120)
        return [NoFaceError("no face") if job.client == "nobody" else job.client for job in jobs]

    def alone(self, job: Job) -> Any:
        return self([job])[0]

    def submit(self, queue: Queue, client: str, key: str = "same", rows: int = 1, most: int = 4) -> Job:
        return queue.submit("x", client, self.alone, Share(key, most, self, rows))


def test_what_suits_is_done_together_until_the_batch_is_full(make: Callable[..., Queue]) -> None:
    queue, gate, work = make(), Gate(), Together()
    work.go.set()
    queue.submit("x", "first", gate)
    assert gate.began.wait(120)
    jobs = [
        work.submit(queue, "ada"),
        work.submit(queue, "other size", key="other"),
        work.submit(queue, "tom", rows=2),
        work.submit(queue, "too many", rows=2),
        work.submit(queue, "eve"),
        queue.submit("x", "no batch", lambda job: "no batch"),
        work.submit(queue, "more than a batch", rows=9),
        work.submit(queue, "last"),
    ]
    gate.go.set()
    assert [wait(job).answer for job in jobs] == [job.client for job in jobs]
    assert work.groups == [["ada", "tom", "eve"], ["other size"], ["too many", "last"], ["more than a batch"]]


def test_in_a_batch_each_has_its_own_end(make: Callable[..., Queue]) -> None:
    queue, gate, work = make(waiting_per_client=1), Gate(), Together()
    queue.submit("x", "first", gate)
    assert gate.began.wait(120)
    clients = ["ada", "leaves", "late", "nobody"]
    ada, leaves, late, nobody = (work.submit(queue, client) for client in clients)
    gate.go.set()
    assert work.began.wait(120)
    assert queue.running == 4
    queue.cancel(leaves)
    late.deadline = 0
    queue.tidy()
    assert (leaves.state, late.state, ada.state) == ("cancelled", "failed", "running")
    assert late.error is not None
    assert late.error.status == 504
    again = queue.submit("x", "leaves", lambda job: "has its place again")
    work.go.set()
    assert [wait(job).state for job in (ada, nobody, again)] == ["done", "failed", "done"]
    assert nobody.error is not None
    assert nobody.error.status == 422
    assert (leaves.state, leaves.answer, late.answer) == ("cancelled", None, None), "they stay as they ended"
    assert work.groups == [clients]


def test_a_batch_that_breaks_leaves_the_worker_at_work(make: Callable[..., Queue]) -> None:
    queue, gate = make(), Gate()
    queue.submit("x", "first", gate)
    assert gate.began.wait(120)

    def broken(jobs: Sequence[Job]) -> list[Any]:
        if len(jobs) == 2:
            return ["too few answers"]
        raise RuntimeError

    two, three = Share("two", 2, broken), Share("three", 3, broken)
    jobs = [queue.submit("x", "ada", lambda job: 1, share) for share in (two, two, three, three, three)]
    gate.go.set()
    errors = [wait(job).error for job in jobs]
    assert [error and error.status for error in errors] == [500] * 5
    assert wait(queue.submit("x", "ada", lambda job: 5)).answer == 5


def test_nothing_of_a_job_is_kept_when_it_is_done() -> None:
    class Photo:
        pass

    queue, photo = Queue(Limits(), lambda job: None), Photo()
    gone = weakref.ref(photo)
    wait(queue.submit("x", "ada", lambda job, photo=photo: photo))
    del photo
    for _ in range(12_000):
        if gone() is None:
            break
        time.sleep(0.01)
    queue.close()
    assert gone() is None, "the worker still holds the last job"

"""Work shared out to processes of this machine, with one rule for every way in which they can end.

- Ctrl-C is the main process's: it ends all workers at once and is raised there.
- A worker that dies ends the work with an error that says what to do. (The pools of the standard library wait for ever
  for one that dies unseen, `multiprocessing.Pool` always and `ProcessPoolExecutor` while it still starts others.)
- Workers end when the main process does, however that ends.

So what workers write has to be whole at any moment, see `consistentid.files.writing`. Processes are spawned, as every
system can and threads of the main process do not disturb; a script that gets here needs ``if __name__ == "__main__":``.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, Final, TypeVar, cast

import torch

from consistentid.errors import ConsistentIDError
from consistentid.files.devices import torch_threads

State = TypeVar("State")
Task = TypeVar("Task")
Result = TypeVar("Result")

_STARTING: Final = object()


def run_in_processes(
    prepare: Callable[[int], State],
    work: Callable[[State, Task], Result],
    tasks: Sequence[Task],
    workers: int,
    done: Callable[[Task, Result], object],
    *,
    threads_each: int = 1,
    remedy: str = "run it again with fewer workers",
) -> None:
    """Do every task once, in any order.

    Args:
        prepare: makes what a worker needs for all its tasks, of the worker's number, 0 to `workers` - 1; called with
            its first task. Like `work` a function of a module, or a `functools.partial` of one.
        work: does a task.
        tasks: what is to be done; tasks and results are sent as pickles.
        workers: processes; with one, or one task, all is done in this process.
        done: called in this process with each task and its result, as they come.
        threads_each: threads that torch takes in each.
        remedy: what to do when a worker died, for the message.

    Raises:
        ConsistentIDError: a worker died. What `prepare`, `work` and `done` raise is raised as it is.
    """
    workers = min(workers, len(tasks))
    if workers <= 1:
        with torch_threads(threads_each):
            state = prepare(0) if tasks else None
            for task in tasks:
                done(task, work(state, task))  # type: ignore[arg-type]  # there is a state where there are tasks
        return
    context = multiprocessing.get_context("spawn")
    processes: list[SpawnProcess] = []
    at_work: dict[Connection, Any] = {}
    left = iter(tasks)
    try:
        with _deaf_to_interrupts():
            for number in range(workers):
                ours, theirs = context.Pipe()
                process = context.Process(
                    target=_serve, args=(theirs, prepare, work, number, threads_each), daemon=True
                )
                process.start()
                theirs.close()  # so that ours ends with the process
                processes.append(process)
                at_work[ours] = _STARTING
        while at_work:
            for connection in cast(list[Connection], wait(list(at_work))):
                task = at_work.pop(connection)
                outcome = _received(connection, task, remedy)
                if task is not _STARTING:
                    done(task, outcome)
                for following in islice(left, 1):
                    connection.send(following)
                    at_work[connection] = following
    finally:
        for process in processes:  # what they write is whole at any moment
            process.terminate()
        for process in processes:
            process.join()


def _received(connection: Connection, task: Any, remedy: str) -> Any:
    """What a worker sends: that it has started, or the result of its task."""
    try:
        right, outcome = connection.recv()
    except (EOFError, OSError):
        if task is _STARTING:
            raise ConsistentIDError(
                "a worker process did not start, for want of memory, or because a script that uses some has to begin"
                " its work below `if __name__ == '__main__':`"
            ) from None
        raise ConsistentIDError(f"a worker process has died, most likely for want of memory; {remedy}") from None
    if not right:
        raise outcome
    return outcome


def quiet_libraries() -> None:
    """Keep the messages and progress bars of diffusers and transformers to themselves; errors they raise as well.

    The hub's progress bars stay: a download may be long.
    """
    import diffusers.utils.logging
    import transformers.utils.logging

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    for library in (diffusers.utils.logging, transformers.utils.logging):
        library.set_verbosity(logging.CRITICAL)
        library.disable_progress_bar()


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Processes that are started in the block never hear Ctrl-C, from their first moment."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


# --------------------------------------------------------------------------------------------------- in the processes


def _serve(
    main: Connection, prepare: Callable[[int], Any], work: Callable[[Any, Any], Any], number: int, threads: int
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Windows does not inherit it
    parent = multiprocessing.parent_process()
    assert parent

    def end_with_parent() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    main.send((True, None))
    states: list[Any] = []
    while True:
        try:
            task = main.recv()
        except EOFError:
            return
        try:
            if not states:
                states.append(prepare(number))
            outcome = True, work(states[0], task)
        except Exception as error:
            outcome = False, _portable(error)
        main.send(outcome)


def _portable(error: Exception) -> Exception:
    """The error if it can be sent, else one that says the same; where it came from goes with it as a note."""
    origin = traceback.format_exc()
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # many libraries' errors cannot be made again of their message
        error = RuntimeError(f"{type(error).__name__}: {error}")
    error.add_note(origin)
    return error

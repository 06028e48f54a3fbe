"""Processes: shared work, Ctrl-C, the death of a worker, the death of the main process. All are spawned."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from consistentid.errors import ConsistentIDError, InputError
from consistentid.files.workers import run_in_processes

PATIENCE = 60.0  # seconds for processes to start on a busy machine

MAIN = """
import sys, time
from pathlib import Path
from consistentid.files.workers import run_in_processes

def prepare(number):
    return number

def work(number, folder):
    import os
    (Path(folder) / f"{os.getpid()}.pid").touch()
    time.sleep(600)

if __name__ == "__main__":
    import signal
    signal.signal(signal.SIGINT, signal.default_int_handler)  # as at a terminal; what runs beside a shell is deaf to it
    run_in_processes(prepare, work, [sys.argv[1]] * 2, 2, lambda task, result: None)
"""


def number(number: int) -> int:
    return number


def described(number: int, task: int) -> tuple[int, int, int, int]:
    return number, os.getpid(), task * task, torch.get_num_threads()


def at_fault(_number: int, task: str) -> None:
    match task:
        case "error":
            raise InputError("this one is wrong; give another")
        case "death":
            os._exit(1)
        case _:
            time.sleep(600)


def no_network(_number: int) -> None:
    raise InputError("no network; name another")


@pytest.mark.parametrize("workers", [1, 2])
def test_every_task_is_done_once_with_as_many_threads_as_asked(workers: int) -> None:
    found: dict[int, tuple[int, int, int, int]] = {}
    before = torch.get_num_threads()
    run_in_processes(number, described, range(8), workers, found.__setitem__, threads_each=1)
    assert {task: square for task, (_, _, square, _) in found.items()} == {n: n * n for n in range(8)}
    assert {threads for *_, threads in found.values()} == {1}
    assert torch.get_num_threads() == before
    numbers = {(number, process) for number, process, *_ in found.values()}
    assert {number for number, _ in numbers} <= set(range(workers))
    assert len(numbers) == len({process for _, process in numbers})  # a number of its own for each
    assert (os.getpid() in {process for _, process in numbers}) == (workers == 1)


def test_nothing_to_do() -> None:
    run_in_processes(no_network, described, [], 4, lambda *_: None)


@pytest.mark.parametrize("prepare", [number, pytest.param(no_network, marks=pytest.mark.slow)])
def test_errors_of_workers_are_raised_as_they_are_and_end_the_work(prepare: object) -> None:
    began = time.monotonic()
    with pytest.raises(InputError, match=r"; (give|name) another"):
        run_in_processes(prepare, at_fault, ["error", "sleep", "sleep"], 2, lambda *_: None)  # type: ignore[arg-type]
    assert time.monotonic() - began < PATIENCE


@pytest.mark.slow
def test_a_worker_that_dies_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(ConsistentIDError, match="a worker process has died, most likely for want of memory; try less"):
        run_in_processes(number, at_fault, ["death", "sleep"], 2, lambda *_: None, remedy="try less")


def started(folder: Path, *, group: bool) -> tuple[subprocess.Popen[str], list[psutil.Process]]:
    """A main process, and its workers once both are at work."""
    (folder / "main.py").write_text(MAIN)
    main = subprocess.Popen(
        [sys.executable, str(folder / "main.py"), str(folder)],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=group,
    )
    end = time.monotonic() + 2 * PATIENCE
    while len(found := list(folder.glob("*.pid"))) < 2:
        assert time.monotonic() < end
        assert main.poll() is None
        time.sleep(0.05)
    return main, [psutil.Process(int(path.stem)) for path in found]


@pytest.mark.slow
def test_workers_end_when_the_main_process_is_killed(tmp_path: Path) -> None:
    main, workers = started(tmp_path, group=False)
    main.kill()
    main.wait()  # for itself alone: its stderr is theirs, too, and ends with the last of them
    _, alive = psutil.wait_procs(workers, timeout=PATIENCE)
    for one in alive:
        one.kill()
    main.communicate()
    assert not alive


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Ctrl-C cannot be sent to a group of processes there")
def test_ctrl_c_ends_all_at_once_and_is_told_once(tmp_path: Path) -> None:
    main, workers = started(tmp_path, group=True)
    os.killpg(main.pid, signal.SIGINT)  # as a terminal does: every process gets it
    _, errors = main.communicate(timeout=PATIENCE)
    _, alive = psutil.wait_procs(workers, timeout=PATIENCE)
    assert not alive
    assert main.returncode == -signal.SIGINT
    assert errors.count("KeyboardInterrupt") == 1
    assert "Process SpawnProcess" not in errors


@pytest.mark.slow
def test_a_script_without_a_guard_is_told_what_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(MAIN.replace('if __name__ == "__main__":', "if True:"))
    done = subprocess.run(
        [sys.executable, str(tmp_path / "main.py"), str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert "a script that uses some has to begin its work below `if __name__ == '__main__':`" in done.stderr

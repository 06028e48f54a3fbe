"""The fuzzer of `benchmarks/`: that it finds faults, makes the same case again, and finds none in its first cases."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "fuzz.py"

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the fuzzer forks")


@pytest.fixture(scope="module")
def fuzz() -> Any:
    spec = importlib.util.spec_from_file_location("fuzz", SCRIPT)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["fuzz"] = module  # for its dataclasses
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def prepared(fuzz: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As many files as cases need to be made, not to be run."""
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "preset").mkdir()
    for name in ("photo.png", "tom.jpg", "preset/preset.yaml", "preset.yaml", "recipe.yaml"):
        (folder / name).write_text('{"a": [1, {"b": 2}]}')
    (folder / "folder").mkdir()
    fuzz.traps(folder)
    return folder


def test_seed_and_number_make_the_same_case(fuzz: Any, prepared: Path, tmp_path: Path) -> None:
    once, again, other = (
        [fuzz.make(seed, number, prepared, tmp_path / f"{turn}-{number}") for number in range(39)]
        for turn, seed in enumerate((3, 3, 4))
    )
    assert once == again
    assert once != other
    assert {case.seed for case in once} == set(fuzz.commands())
    assert any(case.spoiled for case in once)


@pytest.mark.parametrize(
    ("code", "text", "faults"),
    [
        (0, "fine", []),
        (2, "error: photo.png: no such file", []),
        (2, "Traceback (most recent call last):\n...\nerror: x", ["traceback"]),
        (1, "error: KeyError: 'a'. This is unexpected", ["exit code 1"]),
        (-9, "", ["exit code -9"]),
        (2, "", ["0 error lines"]),
        (2, "error: a\nerror: b", ["2 error lines"]),
    ],
)
def test_what_counts_as_a_fault(fuzz: Any, tmp_path: Path, code: int, text: str, faults: list[str]) -> None:
    running = object.__new__(fuzz.Running)
    running.case, running.output, running.killed = fuzz.Case(0, "doctor", ["doctor"]), tmp_path / "out.txt", ""
    running.code, running.megabytes, running.seconds = code, 100.0, 1.0
    running.output.write_text(text)
    assert running.faults() == faults
    running.megabytes = 2000.0
    assert set(running.faults()) == {*faults, "memory"}


@pytest.mark.slow
def test_what_takes_too_long_or_too_much_is_ended(fuzz: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz, "SECONDS", 0)
    running = fuzz.Running(fuzz.Case(0, "doctor", ["doctor"]), tmp_path, tmp_path / "out.txt", fresh=True)
    running.wait()
    assert running.faults() == ["time"]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="a system that does not tell who waits for it")
def test_waiting_for_a_processor_is_no_fault_and_waiting_for_anything_else_is(
    fuzz: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fuzz.queued(os.getpid()) > 0
    monkeypatch.setattr(fuzz, "SECONDS", 1)
    monkeypatch.setattr(os, "chdir", lambda _folder: time.sleep(300))
    for queue, faults in ((1e9, []), (0.0, ["time"])):
        monkeypatch.setattr(fuzz, "queued", lambda _pid, queue=queue: queue)
        running = fuzz.Running(fuzz.Case(0, "doctor", ["doctor"]), tmp_path, tmp_path / "out.txt", fresh=True)
        if faults:
            running.wait()
        else:
            time.sleep(1.5)
            assert not running.poll()
            os.killpg(running.pid, signal.SIGKILL)
            running.wait()
            running.code = 0
        assert running.faults() == faults


def test_a_child_is_not_blamed_for_the_memory_of_the_process_that_made_it(
    fuzz: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fuzz, "MEGABYTES", 1)  # a copy of this process is larger, and so is what the kernel tells of it
    monkeypatch.setattr(os, "chdir", lambda _folder: os._exit(0))
    running = fuzz.Running(fuzz.Case(0, "doctor", ["doctor"]), tmp_path, tmp_path / "out.txt", fresh=True)
    assert running.wait() == 0
    assert running.faults() == []


@pytest.mark.slow
def test_the_first_cases_have_no_fault() -> None:
    done = subprocess.run(
        [sys.executable, SCRIPT, "--seed", "0", "--cases", "13"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["faults"] == {}
    assert sum(figures["commands"].values()) == 13

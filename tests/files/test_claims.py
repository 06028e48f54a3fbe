"""A folder belongs to what was begun in it, and to one process at a time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from consistentid.errors import InputError
from consistentid.files.claims import LOCK, claimed
from consistentid.files.writing import UNFINISHED

HOLDER = """
import os, sys, time, pathlib
from consistentid.files.claims import claimed
with claimed(pathlib.Path(sys.argv[1]), "drawing", {"size": 1}, note="note.json"):
    {work}
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@contextmanager
def held(folder: Path, work: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER.replace("{work}", work), str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    assert process.stdout.readline() == "there\n"
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_the_same_goes_on_and_anything_else_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    for _ in range(2):
        with claimed(folder, "drawing", {"size": 1, "seed": [2]}, note="note.json"):
            assert json.loads((folder / "note.json").read_text()) == {"holds": "drawing", "size": 1, "seed": [2]}
    with (
        pytest.raises(InputError, match=r"new: holds another drawing, with size 1 instead of 3; name a new folder"),
        claimed(folder, "drawing", {"size": 3, "seed": [2]}, note="note.json"),
    ):
        pass


def test_somebody_else_s_folder_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("mine")
    with pytest.raises(InputError, match="is not empty, and holds no drawing; name a new folder"):  # noqa: SIM117
        with claimed(tmp_path, "drawing", {}, note="note.json"):
            pass
    assert names(tmp_path) == ["config.json"]


def test_something_of_ours_that_is_of_another_kind(tmp_path: Path) -> None:
    with claimed(tmp_path, "training run", {}, note="run.json"):
        pass
    with (
        pytest.raises(InputError, match=r"holds another thing \(training run\), and no evaluation; name a new folder"),
        claimed(tmp_path, "evaluation", {"preset": "drawn"}, note="run.json"),
    ):
        pass


def test_a_folder_begun_by_an_older_version_goes_on(tmp_path: Path) -> None:
    (tmp_path / "note.json").write_text('{"size": 1}')
    (tmp_path / "picture.png").touch()
    with claimed(tmp_path, "drawing", {"size": 1}, note="note.json"):
        pass


@pytest.mark.parametrize("content", ["", "[1]", "{}", "[" * 100_000, '{"size": '])
def test_a_note_that_cannot_be_read(tmp_path: Path, content: str) -> None:
    (tmp_path / "note.json").write_text(content)
    with (
        pytest.raises(InputError, match=r"note\.json: does not tell of any drawing, or is damaged; name a new folder"),
        claimed(tmp_path, "drawing", {"size": 1}, note="note.json"),
    ):
        pass


@pytest.mark.slow
def test_two_at_once_are_refused_in_words(tmp_path: Path) -> None:
    with held(tmp_path, "print('there', flush=True); time.sleep(60)"):  # noqa: SIM117 - the lock outlives the error
        with pytest.raises(InputError, match="another process is writing to it; wait until that has ended"):
            with claimed(tmp_path, "drawing", {"size": 1}, note="note.json"):
                pass
    with claimed(tmp_path, "drawing", {"size": 1}, note="note.json"):  # the process was killed: so is its lock
        pass
    assert names(tmp_path) == [LOCK, "note.json"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a system without fork")
def test_a_forked_child_does_not_keep_its_parent_s_lock(tmp_path: Path) -> None:
    work = "child = os.fork(); child and print('there', child, sep=chr(10), flush=True); time.sleep(60)"
    with held(tmp_path, work) as process:
        assert process.stdout
        child = int(process.stdout.readline())
        process.kill()
        process.wait()
        try:
            with claimed(tmp_path, "drawing", {"size": 1}, note="note.json"):
                pass
        finally:
            os.kill(child, signal.SIGKILL)


def test_what_a_killed_run_left_is_removed(tmp_path: Path) -> None:
    work = f"(pathlib.Path(sys.argv[1]) / '{UNFINISHED}x.png').touch(); print('there', flush=True); time.sleep(60)"
    with held(tmp_path, work):
        assert (tmp_path / f"{UNFINISHED}x.png").exists()
    time.sleep(0.1)
    with claimed(tmp_path, "drawing", {"size": 1}, note="note.json"):
        assert not (tmp_path / f"{UNFINISHED}x.png").exists()

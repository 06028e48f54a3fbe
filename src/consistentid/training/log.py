"""What a run tells while it goes on: lines of `log.jsonl` and of the screen, and TensorBoard where it is asked for."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from consistentid.errors import InputError
from consistentid.files.reading import read_bytes
from consistentid.files.writing import write_whole

LOG: Final = "log.jsonl"


def append(run: Path, row: Mapping[str, float]) -> None:
    """One more line of the log, with "step".

    Raises:
        InputError: it cannot be written.
    """
    try:
        with (run / LOG).open("a") as file:
            file.write(json.dumps(row) + "\n")
    except OSError as error:
        raise InputError(
            f"{run / LOG}: cannot be written ({error.strerror}); the last checkpoint is whole,"
            " and the same line goes on from there"
        ) from error


def cut(run: Path, step: int) -> None:
    """Leave out what was logged after a step, for it will be done again."""
    path = run / LOG
    if path.exists():
        lines = read_bytes(path, what="log").decode(errors="replace").splitlines()
        write_whole(path, "".join(f"{line}\n" for line in lines if _step_of(line) <= step))


def _step_of(line: str) -> float:
    """The step that a line of the log tells of; of half a line, as a kill leaves it, none that there is."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, LookupError, TypeError):
        return math.inf


def line(step: int, steps: int, losses: Mapping[str, float], seconds: float) -> str:
    """A step for the screen; `seconds` is what one takes."""
    told = ", ".join(f"{name} {value:.4f}" for name, value in losses.items() if name != "loss")
    return f"step {step} of {steps}: {told}, {seconds:.2f} s a step, {_span((steps - step) * seconds)} left"


@contextmanager
def board(run: Path, step: int, wanted: bool) -> Iterator[Any]:
    """A writer for TensorBoard that goes on after a step, or None where none is wanted.

    Raises:
        InputError: its package is missing.
    """
    if not wanted:
        yield None
        return
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise InputError(
            "log.tensorboard needs another package; run 'pip install consistentid[train]', or leave it out"
        ) from None
    with SummaryWriter(str(run / "tensorboard"), purge_step=step) as writer:
        yield writer


def _span(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {rest} s"

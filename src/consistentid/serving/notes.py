"""Warnings of the library go to the client whom they concern, and not into a log, since they may hold words of it."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_thread = threading.local()


@contextmanager
def collected(notes: list[str]) -> Iterator[None]:
    """The warnings of this thread go there, while `routed` is in force; others may collect theirs at the same time."""
    _thread.notes = notes
    try:
        yield
    finally:
        _thread.notes = None


@contextmanager
def routed() -> Iterator[None]:
    """Warnings of this package go to the thread that collects them, all others nowhere."""

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        notes = getattr(_thread, "notes", None)
        if notes is not None:
            notes.append(str(message))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("always", category=UserWarning, module=r"consistentid\.")
        warnings.showwarning = show
        yield

"""The log of a run: lines that are done again are taken out, whatever else stands there."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from consistentid.errors import InputError
from consistentid.training import log


def test_lines_after_a_checkpoint_and_half_ones_are_cut(tmp_path: Path) -> None:
    log.cut(tmp_path, 3)  # nothing was logged yet
    for step in range(1, 6):
        log.append(tmp_path, {"step": step, "loss": 0.5})
    whole = (tmp_path / log.LOG).read_text().splitlines()
    junk = [b"[1]", b"{}", b"null", b'{"step": "x"}', b"\xff\xfe", b'{"step": 1, "lo']
    (tmp_path / log.LOG).write_bytes(b"\n".join([*junk[:5], *(line.encode() for line in whole), junk[5]]))
    log.cut(tmp_path, 3)
    assert [json.loads(line)["step"] for line in (tmp_path / log.LOG).read_text().splitlines()] == [1, 2, 3]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="a system without pipes that are files")
def test_what_is_no_log_is_an_error(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / log.LOG)
    with pytest.raises(InputError, match=r"log\.jsonl: is not a regular file"):
        log.cut(tmp_path, 3)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / log.LOG).mkdir()
    with pytest.raises(InputError, match=r"log\.jsonl: cannot be written .*; the last checkpoint is whole"):
        log.append(tmp_path / "run", {"step": 1})


def test_a_line_for_the_screen() -> None:
    assert log.line(30, 100, {"loss": 1.0, "noise": 0.25}, 2.0) == (
        "step 30 of 100: noise 0.2500, 2.00 s a step, 2 min 20 s left"
    )
    assert log.line(0, 10_000, {}, 1.0).endswith("2 h 46 min left")

"""Progress bars: gone before anything else is written, and never drawn where nobody watches."""

from __future__ import annotations

import io
import json
import logging
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import click
import pytest

import tiny
from consistentid.cli.common import named_bars, progress_bar, quiet


class Terminal(io.StringIO):
    """Both streams of a terminal; `line` is what its last line shows."""

    def isatty(self) -> bool:
        return True

    @property
    def line(self) -> str:
        shown = ""
        for text in self.getvalue().rpartition("\n")[2].split("\r"):
            shown = text + shown[len(text) :]
        return shown.strip()


def watched(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Within a test, since pytest sets the streams anew when one begins."""
    both = Terminal()
    monkeypatch.setattr(sys, "stderr", both)
    monkeypatch.setattr(sys, "stdout", both)
    return both


def test_a_bar_is_gone_when_its_work_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = watched(monkeypatch)
    with click.Context(click.Command("generate")):
        show = progress_bar("step")
        for done in range(1, 5):
            show(done, 4)
            if done < 4:
                assert "/4" in terminal.line
        assert terminal.line == "", "what comes next has a line of its own"
        show(1, 2)
        assert "/2" in terminal.line, "more work has a new bar"
    assert terminal.line == "", "so has an error"


def test_kinds_of_work_have_bars_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = watched(monkeypatch)
    with click.Context(click.Command("evaluate")):
        show = named_bars()
        show("pictures", 1, 4)
        show("measures", 1, 3)
        assert "measures" in terminal.line
        assert "pictures" not in terminal.line
    assert terminal.line == ""


def test_notes_have_lines_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = watched(monkeypatch)
    logging.getLogger("consistentid").setLevel(logging.WARNING)  # --debug of another test would show everything
    with warnings.catch_warnings(), click.Context(click.Command("generate")):
        quiet()
        show = progress_bar("step")
        show(1, 4)
        warnings.showwarning(UserWarning("a sentence"), UserWarning, "", 0)
        lines = [line.rpartition("\r")[2].strip() for line in terminal.getvalue().split("\n")]
        assert "note: a sentence" in lines


def test_nothing_is_drawn_where_stderr_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with click.Context(click.Command("generate")):
        show = progress_bar("step")
        for done in range(1, 5):
            show(done, 4)
    assert stream.getvalue() == ""


@pytest.mark.slow
def test_an_error_is_the_only_line(tmp_path: Path) -> None:
    """Of a real process, since libraries write to its streams past Python's: a torn recogniser, and a torn LoRA."""
    shutil.copytree(tiny.preset(), tmp_path / "torn")
    file = tmp_path / "torn/recogniser.onnx"
    file.write_bytes(file.read_bytes()[:-2000])
    tiny.portrait().save(tmp_path / "ada.png")
    (tmp_path / "style.safetensors").write_bytes(b"\x08" + bytes(7) + b"{broken}")
    out = tmp_path / "out"
    lines = []
    for more in (
        ("--preset", tmp_path / "torn"),
        ("--preset", tiny.preset(), "--lora", tmp_path / "style.safetensors"),
    ):
        arguments = ["generate", tmp_path / "ada.png", "--prompt", "a woman", "--num", "1", "--out", out, *more]
        lines.append([str(argument) for argument in arguments])
    code = (
        "import json, sys\nfrom consistentid.cli import main\n"
        "for line in json.loads(sys.argv[1]):\n"
        "    try: main(line)\n"
        "    except SystemExit as end: print('exit', end.code, flush=True)"
    )
    done = subprocess.run([sys.executable, "-c", code, json.dumps(lines)], capture_output=True, text=True)
    assert done.stdout == "exit 2\nexit 2\n"
    assert [line[:7] for line in done.stderr.splitlines()] == ["error: "] * 2, done.stderr
    assert not out.exists()

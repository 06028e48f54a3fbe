"""The systemd unit speaks of options that there are, and systemd reads it without a complaint."""

from __future__ import annotations

import configparser
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from consistentid.cli.serve import serve

UNIT = Path(__file__).parents[2] / "deploy/consistentid.service"


def test_the_unit_starts_the_command_as_it_is() -> None:
    unit = configparser.ConfigParser(interpolation=None, strict=False)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read(UNIT)
    program, command, *options = shlex.split(unit["Service"]["ExecStart"])
    assert (Path(program).name, command) == ("consistentid", "serve")
    known = {name for parameter in serve.params for name in parameter.opts}
    assert {option for option in options if option.startswith("-")} <= known


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd")
def test_systemd_reads_the_unit(tmp_path: Path) -> None:
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text().replace("/opt/consistentid/bin/consistentid", sys.executable))
    result = subprocess.run(["systemd-analyze", "verify", str(copy)], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")

"""The systemd unit and the container file speak of options, extras and files that there are, and pass their linters."""

from __future__ import annotations

import configparser
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from consistentid.cli.serve import serve
from consistentid.serving.access import OPEN

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "deploy/consistentid.service"
CONTAINER = ROOT / "deploy/Dockerfile"
KNOWN = {name for parameter in serve.params for name in parameter.opts}
"""Options of `consistentid serve`."""


def test_the_unit_starts_the_command_as_it_is() -> None:
    unit = configparser.ConfigParser(interpolation=None, strict=False)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read(UNIT)
    program, command, *options = shlex.split(unit["Service"]["ExecStart"])
    assert (Path(program).name, command) == ("consistentid", "serve")
    assert {option for option in options if option.startswith("-")} <= KNOWN


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd")
def test_systemd_reads_the_unit(tmp_path: Path) -> None:
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text().replace("/opt/consistentid/bin/consistentid", sys.executable))
    result = subprocess.run(["systemd-analyze", "verify", str(copy)], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.fixture(scope="module")
def container() -> list[tuple[str, str]]:
    """The container file's instructions with what they say."""
    text = re.sub(r"^#.*\n", "", CONTAINER.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in text.splitlines() if line.strip()]


def test_the_container_copies_what_there_is_and_installs_extras_that_there_are(
    container: list[tuple[str, str]],
) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    copied = {name for word, said in container if word == "COPY" and "--from" not in said for name in said.split()[:-1]}
    assert {name for name in copied if not (ROOT / name).exists()} == set()
    needed = {"pyproject.toml", "src", project["readme"], *project["license-files"], "constraints.txt"}
    assert needed <= copied, "the package is built of these"
    [extras] = [said.partition("=")[2] for word, said in container if word == "ARG" and said.startswith("EXTRAS=")]
    assert set(extras.split(",")) <= set(project["optional-dependencies"])


def test_the_container_starts_the_command_as_it_is_for_no_root_and_looks_at_its_health(
    container: list[tuple[str, str]],
) -> None:
    last = dict(container)  # of several, the last holds
    [program], [command, *options] = json.loads(last["ENTRYPOINT"]), json.loads(last["CMD"])
    assert program in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert (command, serve.name) == ("serve", "serve")
    assert {option for option in options if option.startswith("-")} <= KNOWN
    assert last["USER"].isdecimal()
    assert int(last["USER"]) > 0
    port = options[options.index("--port") + 1]
    assert last["EXPOSE"] == port
    [url] = re.findall(r"http://127\.0\.0\.1:(\d+)(/\w+)", last["HEALTHCHECK"])
    assert url[0] == port
    assert url[1] in OPEN, "it knows no token"
    compile(json.loads(last["HEALTHCHECK"].partition("CMD ")[2])[2], "the check", "exec")


@pytest.mark.skipif(shutil.which("hadolint") is None, reason="no hadolint")
def test_hadolint_has_nothing_against_the_container_file() -> None:
    result = subprocess.run(["hadolint", str(CONTAINER)], capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, "")

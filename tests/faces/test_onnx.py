"""Opening ONNX files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, save

CODE = """
import sys
import numpy
from consistentid.faces.onnx import onnx_providers, open_session
assert "onnxruntime" not in sys.modules
session = open_session(sys.argv[1], onnx_providers("cpu"))
print(session.run(None, {"x": numpy.ones(1, numpy.float32)})[0].tolist())
"""


@pytest.mark.slow
def test_the_runtime_keeps_nothing_on_the_disk_and_tells_nobody(tmp_path: Path) -> None:
    """What it would send it first puts into a data base of its own."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "same", [x], [y])
    path = tmp_path / "same.onnx"
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    home = tmp_path / "home"
    home.mkdir()
    places = dict.fromkeys(("TMPDIR", "HOME", "XDG_CACHE_HOME", "USERPROFILE", "LOCALAPPDATA"), str(home))
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"} | places
    line = [sys.executable, "-c", CODE, str(path)]
    result = subprocess.run(line, capture_output=True, text=True, env=environment)
    assert (result.returncode, result.stdout, result.stderr) == (0, f"{np.ones(1).tolist()}\n", "")
    assert [str(x.relative_to(home)) for x in home.rglob("*")] == []

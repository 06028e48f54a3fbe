"""Devices and number formats by name, and networks that are elsewhere only while they are used."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import onnxruntime
import pytest
import torch

import consistentid
import tiny
from consistentid.errors import InputError
from consistentid.faces import onnx
from consistentid.faces.onnx import onnx_providers
from consistentid.files.devices import moved, resolve_device, resolve_dtype
from consistentid.pipeline.pipeline import ConsistentIDPipeline


def test_device_and_dtype() -> None:
    cpu = torch.device("cpu")
    assert resolve_device("cpu") == cpu
    assert resolve_device(None).type in ("cpu", "cuda", "mps")
    for wrong in ("cuda:99", "gpu", "meta"):
        with pytest.raises(InputError, match=f"device='{wrong}' is not there; this machine has cpu"):
            resolve_device(wrong)
    assert resolve_dtype("auto", cpu) == resolve_dtype(torch.float32, cpu) == torch.float32
    assert resolve_dtype("auto", torch.device("cuda")) == resolve_dtype("float16", cpu) == torch.float16
    with pytest.raises(InputError, match="give one of float32, float16, bfloat16, auto"):
        resolve_dtype("float8", cpu)


def test_networks_come_home_whatever_happens() -> None:
    home, away = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2, dtype=torch.float64)
    weight = home.weight
    with moved("cpu", home, away):
        assert home.weight is weight

    seen: list[str] = []

    class Counting(torch.nn.Linear):
        def to(self, device: object) -> Counting:  # type: ignore[override]
            seen.append(str(device))
            return self

    with pytest.raises(RuntimeError, match="mine"), moved("meta", Counting(1, 1)):
        raise RuntimeError("mine")
    assert seen == ["meta", "cpu"]


def test_no_device_is_fixed_in_the_code() -> None:
    """Every network goes where its user says; only what asks which devices there are may name one."""
    fixed = re.compile(r"""\.cuda\(\)|\.to\(["']cuda|device=["']cuda""")
    sources = Path(consistentid.__file__).parent.rglob("*.py")
    found = [path.name for path in sources if path.name != "devices.py" and fixed.search(path.read_text())]
    assert not found


def test_every_onnx_network_is_told_where_to_compute() -> None:
    """onnxruntime's own choice is the CPU, whatever device the user named."""
    names = {"OnnxDetector", "OnnxRecogniser", "SceneReader", "onnx", "open_session"}
    silent = []
    for path in Path(consistentid.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) in names:
                told = {keyword.arg for keyword in node.keywords}
                if "providers" not in told and len(node.args) < 2:
                    silent.append(f"{path.name}:{node.lineno}")
    assert not silent


def test_onnx_networks_compute_where_torch_does(monkeypatch: pytest.MonkeyPatch) -> None:
    there = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: there)
    assert onnx_providers("cpu") == ("CPUExecutionProvider",)
    assert onnx_providers("cuda:1") == (("CUDAExecutionProvider", {"device_id": 1}), "CPUExecutionProvider")
    there.remove("CUDAExecutionProvider")
    with pytest.warns(UserWarning, match="cannot compute on cuda: faces are found .* install onnxruntime-gpu"):
        assert onnx_providers("cuda") == ("CPUExecutionProvider",)


def test_the_face_networks_of_a_pipeline_are_on_its_device(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, session = [], onnxruntime.InferenceSession

    def record(path: str, options: object, providers: list[object]) -> object:
        asked.append(providers)
        return session(path, options, providers=["CPUExecutionProvider"])

    # A device that every machine has, and on which nothing computes.
    monkeypatch.setitem(onnx._PROVIDERS, "meta", ("CUDAExecutionProvider",))
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", record)

    def parsing(name: str | Path, *, low_memory: bool = False) -> set[str]:
        studio = ConsistentIDPipeline.from_preset(name, device="cpu", low_memory=low_memory)
        studio.device = torch.device("meta")
        assert studio.analyzer.recogniser
        assert studio.analyzer.detector
        assert name != "drawn" or studio.judge
        return {x.device.type for x in studio.analyzer.parser.network.parameters()}

    assert parsing(tiny.preset()) == {"meta"}
    assert parsing(tiny.preset(), low_memory=True) == {"cpu"}
    assert asked.pop() == ["CPUExecutionProvider"]
    asked.clear()
    parsing("drawn")
    assert asked == [[("CUDAExecutionProvider", {}), "CPUExecutionProvider"]] * 3, "recogniser, parser, judge"
    parsing("drawn", low_memory=True)
    assert asked[3:] == [["CPUExecutionProvider"]] * 3

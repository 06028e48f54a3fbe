"""Devices and number formats by name, and networks that are elsewhere only while they are used."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import consistentid
from consistentid.errors import InputError
from consistentid.files.devices import moved, resolve_device, resolve_dtype


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

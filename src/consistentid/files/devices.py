"""Where networks compute, in which number format, and moving them there only while they are used."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from consistentid.errors import InputError


def resolve_device(device: str | torch.device | None) -> torch.device:
    """The device of that name, or the best there is: the first CUDA GPU, else Apple's, else the CPU.

    Raises:
        InputError: it is not there; the message lists those that are.
    """
    there = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        there.append("mps")
    if device is None:
        return torch.device("cuda" if len(there) > 1 and there[1] == "cuda:0" else there[-1])
    try:
        found = torch.device(device)
    except RuntimeError:
        found = None
    if found is None or not any(name in (str(found), f"{found}:0") for name in there):
        raise InputError(f"device={str(device)!r} is not there; this machine has {', '.join(there)}")
    return found


def resolve_dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype:
    """The number format of that name; "auto" is float16 on a GPU and float32 on a CPU, which is slow at less.

    Raises:
        InputError: an unknown name.
    """
    known = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
    known["auto"] = torch.float32 if device.type == "cpu" else torch.float16
    if dtype in known.values():
        return dtype  # type: ignore[return-value]  # a torch dtype already
    if dtype not in known:
        raise InputError(f"dtype={dtype!r} is not known; give one of {', '.join(known)}")
    return known[str(dtype)]


def fast_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is faster there than float32 for what needs no more digits: on a CPU if it multiplies in it."""
    probe = getattr(torch.cpu, "get_capabilities", None)  # of newer versions
    capabilities: dict[str, Any] = probe() if probe else {}
    return device.type == "cpu" and any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16"))


@contextmanager
def ordinary_tensors() -> Iterator[None]:
    """Within the block, or a function decorated with it, tensors are ordinary even inside `torch.inference_mode()`.

    What is made there for good (weights, identities, remembered texts) could be used only there ever after: ComfyUI,
    for one, runs every node in that mode. Whether gradients are recorded stays as it is.
    """
    gradients = torch.is_grad_enabled()
    with torch.inference_mode(False), torch.set_grad_enabled(gradients):
        yield


@contextmanager
def exactly(device: torch.device) -> Iterator[None]:
    """Within the block nothing computes in half precision by autocast: a loss's cosines and logarithms need float32."""
    with torch.autocast(device.type, enabled=False):
        yield


@contextmanager
def moved(device: torch.device | str, *modules: nn.Module) -> Iterator[None]:
    """Within the block the modules are on the device, after it back where they were, whatever happens."""
    homes = [next(module.parameters()).device for module in modules]
    try:
        with ordinary_tensors():
            for module in modules:
                module.to(device)
        yield
    finally:
        with ordinary_tensors():
            for module, home in zip(modules, homes, strict=True):
                module.to(home)


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Within the block torch computes with so many threads; the last bit of a sum may depend on their number."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)

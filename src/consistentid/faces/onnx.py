"""Opening ONNX files."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from typing import Any, Final

import torch

from consistentid.errors import CheckpointError, first_line
from consistentid.files.reading import check_file

_PROVIDERS: Final = {"cuda": ("CUDAExecutionProvider", "ROCMExecutionProvider"), "mps": ("CoreMLExecutionProvider",)}
"""Kind of a device of torch -> onnxruntime's names for what computes there."""


MAX_ONNX_BYTES: Final = 2**31
"""The format has no larger files."""


def onnx_providers(device: torch.device | str) -> tuple[Any, ...]:
    """The execution providers of onnxruntime for networks on a device of torch, in order of preference.

    Where the installed onnxruntime has none for it, that is said, and the CPU computes.
    """
    place = torch.device(device)
    if place.type == "cpu":
        return ("CPUExecutionProvider",)
    there = _onnxruntime().get_available_providers()
    found = [name for name in _PROVIDERS.get(place.type, ()) if name in there]
    if not found:
        warnings.warn(
            f"the installed onnxruntime cannot compute on {place}: faces are found and recognised on the CPU;"
            " install onnxruntime-gpu in its place",
            stacklevel=2,
        )
    options = {"device_id": place.index or 0} if place.type == "cuda" else {}
    return (*((name, options) for name in found), "CPUExecutionProvider")


def open_session(path: str | os.PathLike[str], providers: Sequence[Any] = ("CPUExecutionProvider",)) -> Any:
    """An `onnxruntime.InferenceSession` of a file.

    Raises:
        CheckpointError: the file is missing or not an ONNX network.
    """
    onnxruntime = _onnxruntime()
    check_file(path, MAX_ONNX_BYTES, what="ONNX file", error=CheckpointError)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # it also raises what it logs, and a warning beside an error only confuses
    # Threads that spin between calls slow torch down several times on few cores.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.intra_op_num_threads = torch.get_num_threads()  # so that one setting counts for all networks
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=list(providers))
    except Exception as error:  # onnxruntime's own errors share no public base class
        reason = first_line(error)
        raise CheckpointError(f"{path} is not a usable ONNX network ({reason}); get the file again") from error


def _onnxruntime() -> Any:
    """The library, which tells nobody that it is used.

    Its version 1.32 would, and keeps a number of the machine on the disk, unless the environment says otherwise when it
    is first imported: its own `disable_telemetry_events` comes too late.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    return onnxruntime

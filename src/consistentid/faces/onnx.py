"""Opening ONNX files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from consistentid.errors import CheckpointError, first_line


def open_session(path: str | os.PathLike[str], providers: Sequence[str] = ("CPUExecutionProvider",)) -> Any:
    """An `onnxruntime.InferenceSession` of a file.

    Raises:
        CheckpointError: the file is missing or not an ONNX network.
    """
    import onnxruntime
    import torch

    if not Path(path).is_file():
        raise CheckpointError(f"no ONNX file {path}; check the path")
    options = onnxruntime.SessionOptions()
    # Threads that spin between calls slow torch down several times on few cores.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.intra_op_num_threads = torch.get_num_threads()  # so that one setting counts for all networks
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=list(providers))
    except Exception as error:  # onnxruntime's own errors share no public base class
        reason = first_line(error)
        raise CheckpointError(f"{path} is not a usable ONNX network ({reason}); get the file again") from error

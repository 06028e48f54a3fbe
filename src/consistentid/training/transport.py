"""Samples from worker processes in one piece: a shared tensor costs a file of its own, and a sample has a dozen."""

from __future__ import annotations

import io
import pickle
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_ALIGNED = 64  # bytes to a multiple of which each tensor is moved

Packed = tuple[bytes, list[int], Tensor]


def packed(samples: list[Any]) -> Packed:
    """Samples as one tensor of bytes, which holds all of theirs, and a pickle of the rest. It can be sent anywhere."""
    stream = io.BytesIO()
    buffers: list[pickle.PickleBuffer] = []
    _Pickler(stream, protocol=5, buffer_callback=buffers.append).dump(samples)
    views = [torch.frombuffer(x.raw(), dtype=torch.uint8) if x.raw().nbytes else _NOTHING for x in buffers]
    sizes = [len(x) for x in views]
    *starts, end = _places(sizes)
    whole = torch.zeros(end, dtype=torch.uint8)
    for view, start, size in zip(views, starts, sizes, strict=True):
        whole[start : start + size] = view
    return stream.getvalue(), sizes, whole


def unpacked(sent: Packed) -> list[Any]:
    """What `packed` was given; its tensors share their memory with the one that was sent."""
    told, sizes, whole = sent
    array: NDArray[np.uint8] = whole.numpy()
    view = array.data
    parts = [view[start : start + size] for start, size in zip(_places(sizes), sizes, strict=False)]
    samples: list[Any] = pickle.loads(told, buffers=parts)
    return samples


_NOTHING = torch.zeros(0, dtype=torch.uint8)


class _Pickler(pickle.Pickler):
    def reducer_override(self, x: object) -> Any:
        if isinstance(x, Tensor):
            return torch.from_numpy, (x.contiguous().numpy(),)
        return NotImplemented


def _places(sizes: list[int]) -> list[int]:
    """Where tensors of these sizes begin, and the end of all."""
    return list(accumulate((-(-size // _ALIGNED) * _ALIGNED for size in sizes), initial=0))

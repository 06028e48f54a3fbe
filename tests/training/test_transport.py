"""Samples are sent in one piece, and are the same afterwards."""

from __future__ import annotations

import pickle
from dataclasses import dataclass

import torch
from torch import Tensor

from consistentid.training.transport import packed, unpacked


@dataclass
class Sample:
    name: str
    tensors: dict[str, Tensor]


def test_samples_arrive_as_they_were() -> None:
    kinds = (torch.float16, torch.float32, torch.float64, torch.int64, torch.uint8, torch.bool)
    sent = [
        Sample("one", {str(kind): (torch.rand(3, 5) * 9).to(kind) for kind in kinds}),
        Sample("two", {"turned": torch.rand(4, 3).T, "empty": torch.zeros(0, 7), "number": torch.tensor(3.5)}),
    ]
    told, sizes, whole = packed(sent)
    assert whole.dtype == torch.uint8
    assert len(told) < 3000  # the tensors are elsewhere
    arrived = unpacked(pickle.loads(pickle.dumps((told, sizes, whole))))
    for before, after in zip(sent, arrived, strict=True):
        assert after.name == before.name
        for name, x in before.tensors.items():
            assert after.tensors[name].dtype == x.dtype
            assert torch.equal(after.tensors[name], x)


def test_tensors_are_not_copied_once_more_and_can_be_written() -> None:
    sent = packed([torch.arange(5.0), torch.arange(7)])
    first, second = unpacked(sent)
    first += 1
    assert torch.equal(second, torch.arange(7))
    assert torch.equal(unpacked(sent)[0], torch.arange(5.0) + 1)

"""ONNX networks of convolutions as PyTorch modules, so that a loss can look through a face recogniser."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from consistentid.errors import CheckpointError, InputError, first_line
from consistentid.faces.onnx import MAX_ONNX_BYTES
from consistentid.files.reading import check_file

Operator = Callable[..., Tensor]


class DifferentiableOnnx(nn.Module):
    """An ONNX network of one input and one output, frozen, through which gradients flow to the input.

    Knows the operators of the usual face recognisers (ResNets of the ArcFace kind, ConvNeXts); weights in half
    precision are computed with in single.

    Args:
        path: ONNX file.

    Attributes:
        takes: shape of a sample of its input, 0 where it may have any size.

    Raises:
        CheckpointError: the file is missing or broken, or has operators that are not known here.
        InputError: the package onnx is missing.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        try:
            import onnx
        except ImportError:
            raise InputError(
                "to look through a recogniser takes another package; run 'pip install consistentid[train]'"
            ) from None
        super().__init__()
        check_file(path, MAX_ONNX_BYTES, what="ONNX file", error=CheckpointError)
        try:
            graph = onnx.load(path).graph
        except Exception as error:  # protobuf's errors share no public base class
            raise CheckpointError(f"{path} is not a usable ONNX network ({first_line(error)})") from None
        if unknown := sorted({node.op_type for node in graph.node} - OPERATORS.keys() - {"Constant"}):
            raise CheckpointError(f"{path} has operators that cannot be looked through: {', '.join(unknown)}")
        constants = {x.name: _tensor(onnx.numpy_helper.to_array(x)) for x in graph.initializer}
        self._steps: list[_Step] = []
        for node in graph.node:
            attributes = {x.name: onnx.helper.get_attribute_value(x) for x in node.attribute}
            [name, *_], inputs = node.output, list(node.input)
            if node.op_type == "Constant":
                constants[name] = _tensor(onnx.numpy_helper.to_array(attributes["value"]))
                continue
            step = _Step(OPERATORS[node.op_type], inputs, name, attributes)
            if constants.keys() >= set(inputs):  # such as the cast of a weight: done once and for all
                constants[name] = step.result(constants)
            else:
                self._steps.append(step)
        given = [x.name for x in graph.input if x.name not in constants]
        if len(given) != 1 or len(graph.output) != 1:
            raise CheckpointError(f"{path} has {len(given)} inputs and {len(graph.output)} outputs, needed is one each")
        self._input, self._output = given[0], graph.output[0].name
        shapes = {x.name: x.type.tensor_type.shape.dim for x in graph.input}
        self.takes = tuple(int(side.dim_value) for side in shapes[self._input][1:])
        used = sorted({name for step in self._steps for name in step.inputs} & constants.keys())
        # Shapes and axes are read by this process, wherever the network computes.
        self._sizes = {name: constants[name] for name in used if not constants[name].is_floating_point()}
        self._constants = {name: f"constant_{number}" for number, name in enumerate(used) if name not in self._sizes}
        for name, buffer in self._constants.items():
            self.register_buffer(buffer, constants[name], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """What the network gives for its input."""
        weights = {name: getattr(self, buffer) for name, buffer in self._constants.items()}
        values: dict[str, Tensor] = {**self._sizes, **weights, self._input: x}
        for step in self._steps:
            values[step.output] = step.result(values)
        return values[self._output]


@dataclass(frozen=True, eq=False)
class _Step:
    """A node of the graph: names of its inputs ("" for none) and of its output."""

    operator: Operator
    inputs: list[str]
    output: str
    attributes: dict[str, Any]

    def result(self, values: Mapping[str, Tensor]) -> Tensor:
        return self.operator(*(values[name] if name else None for name in self.inputs), **self.attributes)


def _tensor(array: np.ndarray[Any, Any]) -> Tensor:
    return torch.from_numpy(np.array(array))


def _padded(x: Tensor, pads: Sequence[int] | None, value: float = 0.0) -> Tensor:
    """ONNX pads are all beginnings, then all ends, first axis first; PyTorch's are pairs, last axis first."""
    if not pads or not any(pads):
        return x
    half = len(pads) // 2
    return F.pad(x, [pads[axis + end] for axis in reversed(range(half)) for end in (0, half)], value=value)


def _conv(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, strides: Sequence[int] = (1, 1),
    pads: Sequence[int] | None = None, dilations: Sequence[int] = (1, 1), group: int = 1, **_: Any,
) -> Tensor:  # fmt: skip
    return F.conv2d(_padded(x, pads), weight, bias, tuple(strides), 0, tuple(dilations), group)


def _max_pool(
    x: Tensor, *, kernel_shape: Sequence[int], strides: Sequence[int] = (1, 1), pads: Sequence[int] | None = None,
    ceil_mode: int = 0, **_: Any,
) -> Tensor:  # fmt: skip
    padded = _padded(x, pads, -torch.inf)
    out: Tensor = F.max_pool2d(padded, tuple(kernel_shape), tuple(strides), ceil_mode=bool(ceil_mode))
    return out


def _average_pool(
    x: Tensor, *, kernel_shape: Sequence[int], strides: Sequence[int] = (1, 1), pads: Sequence[int] | None = None,
    ceil_mode: int = 0, count_include_pad: int = 0, **_: Any,
) -> Tensor:  # fmt: skip
    out: Tensor = F.avg_pool2d(_padded(x, pads), tuple(kernel_shape), tuple(strides), ceil_mode=bool(ceil_mode))
    if pads and any(pads) and not count_include_pad:
        ones = _padded(torch.ones_like(x[:1, :1]), pads)
        out = out / F.avg_pool2d(ones, tuple(kernel_shape), tuple(strides), ceil_mode=bool(ceil_mode))
    return out


def _batch_norm(
    x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, *, epsilon: float = 1e-5, **_: Any
) -> Tensor:
    return F.batch_norm(x, mean, variance, scale, bias, eps=epsilon)


def _gemm(
    a: Tensor, b: Tensor, c: Tensor | None = None, *, alpha: float = 1.0, beta: float = 1.0,
    transA: int = 0, transB: int = 0,  # noqa: N803 - ONNX calls them so
) -> Tensor:  # fmt: skip
    product = alpha * (a.T if transA else a) @ (b.T if transB else b)
    return product if c is None else product + beta * c


def _layer_norm(
    x: Tensor, scale: Tensor, bias: Tensor | None = None, *, axis: int = -1, epsilon: float = 1e-5, **_: Any
) -> Tensor:
    shape = x.shape[axis:]
    return F.layer_norm(x, shape, scale.expand(shape), None if bias is None else bias.expand(shape), epsilon)


def _reduced(
    reduce: Operator, x: Tensor, given: Tensor | None = None, *, axes: Sequence[int] | None = None, keepdims: int = 1,
    **_: Any,
) -> Tensor:  # fmt: skip
    """The axes are an attribute in old networks, an input in new ones."""
    chosen = tuple(axes or (range(x.dim()) if given is None else given.tolist()))
    return reduce(x, dim=chosen, keepdim=bool(keepdims))


def _reshape(x: Tensor, shape: Tensor, *, allowzero: int = 0) -> Tensor:
    sizes = [x.shape[axis] if size == 0 and not allowzero else size for axis, size in enumerate(shape.tolist())]
    return x.reshape(sizes)


def _slice(x: Tensor, starts: Tensor, ends: Tensor, axes: Tensor | None = None, steps: Tensor | None = None) -> Tensor:
    chosen = [slice(None)] * x.dim()
    for number, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
        axis = number if axes is None else int(axes[number])
        chosen[axis] = slice(start, end, None if steps is None else int(steps[number]))
    return x[tuple(chosen)]


def _cast(x: Tensor, *, to: int) -> Tensor:
    import onnx

    kind = onnx.helper.tensor_dtype_to_np_dtype(to)
    return x.to(torch.from_numpy(np.empty(0, kind)).dtype)


OPERATORS: Mapping[str, Operator] = {
    "Add": lambda a, b: a + b,
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Cast": _cast,
    "Concat": lambda *xs, axis: torch.cat(xs, axis),
    "Conv": _conv,
    "Div": lambda a, b: a / b,
    "Dropout": lambda x, *_, **__: x,
    "Flatten": lambda x, axis=1: x.reshape(math.prod(x.shape[:axis]), -1),
    "Gelu": lambda x, approximate=b"none": F.gelu(x, approximate=approximate.decode()),
    "Gemm": _gemm,
    "GlobalAveragePool": lambda x: x.mean((-2, -1), keepdim=True),
    "Identity": lambda x: x,
    "LayerNormalization": _layer_norm,
    "MatMul": lambda a, b: a @ b,
    "MaxPool": _max_pool,
    "Mul": lambda a, b: a * b,
    "PRelu": lambda x, slope: torch.where(x < 0, slope * x, x),
    "ReduceL2": partial(_reduced, torch.linalg.vector_norm),
    "ReduceMean": partial(_reduced, torch.mean),
    "Relu": F.relu,
    "Reshape": _reshape,
    "Sigmoid": torch.sigmoid,
    "Shape": lambda x, start=0, end=None: torch.tensor(x.shape[start:end]),
    "Slice": _slice,
    "Sub": lambda a, b: a - b,
    "Transpose": lambda x, perm=None: x.permute(perm or tuple(reversed(range(x.dim())))),
}
"""The ONNX operators that are known, by name; arguments and attributes are those of ONNX."""

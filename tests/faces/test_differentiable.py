"""Looking through ONNX networks: the same numbers as onnxruntime's, with gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from consistentid.errors import CheckpointError
from consistentid.faces.differentiable import DifferentiableOnnx

WEIGHTS = Path(__file__).parents[2] / "src/consistentid/weights/drawn"


def network(path: Path, nodes: list[onnx.NodeProto], shape: list[int | str], **weights: Any) -> Path:
    """Write a network from "x" of a shape to "y"."""
    graph = helper.make_graph(
        nodes, "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", None])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def compare(path: Path, x: torch.Tensor) -> None:
    session = onnxruntime.InferenceSession(path)
    [expected] = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    given = x.clone().requires_grad_()
    found = DifferentiableOnnx(path)(given)
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    found.square().sum().backward()
    assert given.grad is not None
    assert given.grad.any()


@pytest.mark.parametrize("name", ["recogniser", "judge"])
def test_shipped_networks(name: str) -> None:
    """A ResNet and a RegNet."""
    compare(WEIGHTS / f"{name}.onnx", torch.rand(3, 3, 112, 112, generator=torch.Generator().manual_seed(0)) * 2 - 1)


def test_the_operators_of_arcface_networks(tmp_path: Path) -> None:
    """Batch norm, PReLU, residuals, uneven padding, pooling, dropout, flattening: as w600k_r50 has them, and more."""
    rng = np.random.default_rng(0)
    path = network(
        tmp_path / "arcface.onnx",
        [
            helper.make_node("Sub", ["x", "mean"], ["a"]),
            helper.make_node("Div", ["a", "std"], ["b"]),
            helper.make_node("Conv", ["b", "w1"], ["c"], strides=[2, 2], pads=[0, 1, 2, 1], kernel_shape=[3, 3]),
            helper.make_node("BatchNormalization", ["c", "scale", "bias", "mu", "var"], ["d"], epsilon=1e-3),
            helper.make_node("PRelu", ["d", "slope"], ["e"]),
            helper.make_node(
                "Conv", ["e", "w2", "bias"], ["f"], group=2, dilations=[2, 2], pads=[2, 2, 2, 2], kernel_shape=[3, 3]
            ),
            helper.make_node("Add", ["f", "e"], ["g"]),
            helper.make_node(
                "MaxPool", ["g"], ["h"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], ceil_mode=1
            ),
            helper.make_node(
                "AveragePool", ["h"], ["smooth"], kernel_shape=[3, 3], strides=[1, 1], pads=[1, 1, 1, 1]
            ),
            helper.make_node("GlobalAveragePool", ["smooth"], ["pooled"]),
            helper.make_node("Mul", ["h", "pooled"], ["i"]),
            helper.make_node("Dropout", ["i"], ["j"]),
            helper.make_node("Flatten", ["j"], ["k"]),
            helper.make_node("Gemm", ["k", "w3", "b3"], ["y"], transB=1, alpha=0.5, beta=2.0),
        ],
        ["N", 3, 12, 12],
        mean=np.float32(0.1), std=np.float32(0.5), w1=rng.normal(size=(4, 3, 3, 3)).astype(np.float32),
        scale=rng.random(4).astype(np.float32), bias=rng.random(4).astype(np.float32),
        mu=rng.random(4).astype(np.float32), var=rng.random(4).astype(np.float32) + 0.5,
        slope=rng.random((4, 1, 1)).astype(np.float32), w2=rng.normal(size=(4, 2, 3, 3)).astype(np.float32),
        w3=rng.normal(size=(5, 64)).astype(np.float32), b3=rng.random(5).astype(np.float32),
    )  # fmt: skip
    compare(path, torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(1)))


def test_sizes_stay_where_they_are_read(tmp_path: Path) -> None:
    """Wherever the network computes: here on the device that holds no values at all."""
    path = network(
        tmp_path / "flat.onnx",
        [
            helper.make_node("Shape", ["x"], ["all"], start=0, end=1),
            helper.make_node("Concat", ["all", "rest"], ["sizes"], axis=0),
            helper.make_node("Reshape", ["x", "sizes"], ["a"]),
            helper.make_node("Mul", ["a", "w"], ["y"]),
        ],
        ["N", 3, 2, 2],
        rest=np.array([12], np.int64),
        w=np.ones(12, np.float32),
    )
    compare(path, torch.rand(2, 3, 2, 2))
    found = DifferentiableOnnx(path).to("meta")(torch.empty(5, 3, 2, 2, device="meta"))
    assert (found.shape, found.device.type) == ((5, 12), "meta")


def test_what_cannot_be_looked_through_is_named(tmp_path: Path) -> None:
    path = network(tmp_path / "erf.onnx", [helper.make_node("Erf", ["x"], ["y"])], ["N", 3])
    with pytest.raises(CheckpointError, match="cannot be looked through: Erf"):
        DifferentiableOnnx(path)
    (tmp_path / "broken.onnx").write_bytes(b"not a network")
    for name in ("broken.onnx", "none.onnx"):
        with pytest.raises(CheckpointError, match=name):
            DifferentiableOnnx(tmp_path / name)

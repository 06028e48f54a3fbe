"""Hand-drawn label maps with known answers, small real networks that see them, and the compatibility vectors."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from torch import nn

from consistentid.faces.face import Detection
from consistentid.faces.parsing import FaceParser

GOLDEN = Path(__file__).parent.parent / "golden"
sys.path[:0] = [str(GOLDEN), str(GOLDEN / "inputs")]

PALETTE = np.random.RandomState(3).permutation(np.stack(np.meshgrid(*[[20, 128, 235]] * 3), -1).reshape(-1, 3))[:19]
PALETTE = PALETTE.astype(np.uint8)

KPS = np.array([(-1, -1), (1, -1), (0, 0), (-1, 1), (1, 1)], np.float32)
"""Landmarks that the tiny detector gives, in cells from the corner of the one that it found."""


def ellipse(labels: NDArray[np.uint8], x: float, y: float, rx: float, ry: float, label: int) -> None:
    rows, columns = np.mgrid[: labels.shape[0], : labels.shape[1]] + 0.5
    labels[((columns - x) / rx) ** 2 + ((rows - y) / ry) ** 2 <= 1] = label


def face_labels(width: int, height: int, *faces: tuple[float, float, float]) -> NDArray[np.uint8]:
    """Heads at (x, y) whose skin is `size` high: eyes at +-0.2, nose tip below the centre, mouth corners at +-0.2."""
    labels = np.zeros((height, width), np.uint8)
    for x, y, size in faces:
        ellipse(labels, x, y + 1.2 * size, 0.6 * size, 0.5 * size, 16)
        ellipse(labels, x, y - 0.1 * size, 0.5 * size, 0.6 * size, 17)
        for side, ear in ((-1, 7), (1, 8)):
            ellipse(labels, x + side * 0.42 * size, y, 0.06 * size, 0.12 * size, ear)
        ellipse(labels, x, y, 0.4 * size, 0.5 * size, 1)
        for side, eye in ((-1, 4), (1, 5)):
            ellipse(labels, x + side * 0.2 * size, y - 0.1 * size, 0.09 * size, 0.06 * size, eye)
        ellipse(labels, x, y + 0.08 * size, 0.05 * size, 0.1 * size, 10)
        ellipse(labels, x, y + 0.27 * size, 0.2 * size, 0.03 * size, 12)
        ellipse(labels, x, y + 0.31 * size, 0.15 * size, 0.04 * size, 13)
    return labels


def landmarks_of(x: float, y: float, size: float) -> NDArray[np.float32]:
    """True landmarks of a face of `face_labels`."""
    points = [(-0.2, -0.1), (0.2, -0.1), (0.0, 0.14), (-0.2, 0.27), (0.2, 0.27)]
    return np.array([(x + dx * size, y + dy * size) for dx, dy in points], np.float32)


def picture(labels: NDArray[np.uint8]) -> Image.Image:
    """The label map in the colours of `PALETTE`."""
    return Image.fromarray(PALETTE[labels])


class Told:
    """A detector that has been told."""

    def __init__(self, *faces: tuple[float, float, float]) -> None:
        self.faces = faces

    def detect(self, image: Image.Image) -> list[Detection]:
        return [
            Detection(
                np.array([x - 0.4 * s, y - 0.5 * s, x + 0.4 * s, y + 0.5 * s], np.float32), landmarks_of(x, y, s), 0.9
            )
            for x, y, s in self.faces
        ]

    def detect_batch(self, images: Sequence[Image.Image]) -> list[list[Detection]]:
        return [self.detect(image) for image in images]


class NearestColour(nn.Module):
    """A parser for `picture`: one 1x1 convolution whose largest logit is the nearest colour of the palette."""

    def __init__(self) -> None:
        super().__init__()
        colours = torch.from_numpy(PALETTE).float() / 255
        self.conv = nn.Conv2d(3, len(PALETTE), 1)
        self.conv.weight.data = (2 * colours)[:, :, None, None]
        self.conv.bias.data = -colours.square().sum(dim=1)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.conv(pixels)


def colour_parser(size: int) -> FaceParser:
    """`NearestColour` for pictures of that size; others are resampled, which mixes colours at edges."""
    return FaceParser(NearestColour(), size, mean=(0, 0, 0), std=(1, 1, 1))


Shape = list[int | str]


def save_onnx(path: Path, nodes: list[onnx.NodeProto], constants: dict[str, NDArray], shapes: dict[str, Shape]) -> Path:
    """An ONNX file of nodes from "input" to the other names in `shapes`."""
    values = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()}
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "g", [values.pop("input")], list(values.values()), tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path

"""What the networks have in common that ship as ONNX files: architecture, flaws of their pictures, export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageFilter
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, AutoModel

from consistentid.errors import InputError
from consistentid.files.writing import replacing
from consistentid.training.drawn.recipe import arguments


class Network(nn.Module):
    """A backbone of transformers and a linear layer over its last feature map.

    Args:
        size: side of its square pictures, or of their latents.
        outputs: numbers it gives for each.
        kind, config: model type of transformers and its configuration.
        centred: the outputs have mean 0 and variance 1 over pictures, as ArcFace's embeddings: a loss of cosines alone
            is lowered quickest by making all alike, and then learns nothing more.
        channels: of what it looks at: 3 of pictures.
    """

    def __init__(
        self, size: int, outputs: int, kind: str, *, centred: bool = False, channels: int = 3, **config: Any
    ) -> None:
        super().__init__()
        self.takes = (channels, size, size)
        if kind not in CONFIG_MAPPING:
            raise InputError(
                f"a network of kind {kind!r} is unknown; give a model type of transformers, such as resnet"
            )
        known = CONFIG_MAPPING[kind]
        told = arguments(known, {"num_channels": channels, **config}, f"the network of kind {kind}")
        self.backbone = AutoModel.from_config(known(**told))
        with torch.no_grad():
            features = self.backbone(torch.zeros(1, *self.takes)).last_hidden_state
        self.norm = nn.BatchNorm1d(features.shape[1])
        self.head = nn.Linear(features[0].numel(), outputs)
        self.centre = nn.BatchNorm1d(outputs, affine=False) if centred else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, size, size), pictures in [-1, 1] -> (B, outputs)."""
        features = self.backbone(x).last_hidden_state
        out: Tensor = self.centre(self.head(self.norm(features.flatten(2)).flatten(1)))
        return out


def flawed(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """The picture with flaws of generated ones: a quarter are blurred, all differ a little in brightness."""
    if rng.random() < 0.25:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 0.9) * picture.width / 64))
    return ImageEnhance.Brightness(picture).enhance(rng.uniform(0.85, 1.15))


def export(network: nn.Module, path: Path, output: str) -> None:
    """ONNX with weights in half precision, computed in single; ``output`` names what it gives.

    The network says in its attribute ``takes`` what it looks at: channels, height, width.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    channels, height, width = network.takes  # type: ignore[misc]
    temporary = path.with_suffix(".single.onnx")
    torch.onnx.export(
        network, (torch.zeros(2, channels, height, width),), temporary, input_names=["input"],
        output_names=[output], dynamic_axes={"input": {0: "batch"}, output: {0: "batch"}}, dynamo=False,
    )  # fmt: skip
    model = onnx.load(temporary)
    temporary.unlink()
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and np.prod(tensor.dims) > 256:
            half = numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name + ".half")
            casts.append(helper.make_node("Cast", [half.name], [tensor.name], to=TensorProto.FLOAT))
            tensor.CopyFrom(half)
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(casts + nodes)
    onnx.checker.check_model(model)
    with replacing(path) as whole:
        onnx.save(model, whole)

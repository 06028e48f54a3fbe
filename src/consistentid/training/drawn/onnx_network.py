"""What the networks have in common that ship as ONNX files: architecture, flaws of their pictures, export."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
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

_HALF = ".half"
"""Ends the names of weights that a file holds in half precision."""


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


def export(network: nn.Module, path: Path, output: str, *, multiple: int | None = None) -> None:
    """ONNX with weights in half precision, computed in single.

    Args:
        network: says in its attribute ``takes`` what it looks at: channels, height, width.
        path: of the file.
        output: name of what it gives.
        multiple: the network takes any height and width that this many pixels divide, and gives maps (B, K, h, w); the
            file says so, as `FaceParser.onnx` reads it.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    channels, height, width = network.takes  # type: ignore[misc]
    temporary = path.with_suffix(".single.onnx")
    sides = {2: "height", 3: "width"} if multiple else {}
    torch.onnx.export(
        network, (torch.zeros(2, channels, height, width),), temporary, input_names=["input"],
        output_names=[output], dynamic_axes={name: {0: "batch", **sides} for name in ("input", output)}, dynamo=False,
    )  # fmt: skip
    model = onnx.load(temporary)
    temporary.unlink()
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and np.prod(tensor.dims) > 256:
            half = numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name + _HALF)
            casts.append(helper.make_node("Cast", [half.name], [tensor.name], to=TensorProto.FLOAT))
            tensor.CopyFrom(half)
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(casts + nodes)
    if multiple:
        helper.set_model_props(model, {"side": str(height), "multiple": str(multiple)})
    onnx.checker.check_model(model)
    with replacing(path) as whole:
        onnx.save(model, whole)


@torch.no_grad()
def restore(network: nn.Module, path: Path, samples: Tensor) -> None:
    """Give a network the weights of a file that `export` wrote of one like it, to learn on.

    A file's convolutions have swallowed the batch norms behind them. These are given back: with the statistics that
    they have on the samples, and with the scale and shift by which the network computes what the file does.

    Args:
        network: of the file's architecture, on the CPU; it is in evaluation mode afterwards.
        path: ONNX file.
        samples: (B, C, H, W), as the network takes them, hundreds of them.

    Raises:
        InputError: the file is missing, or of another network.
    """
    import onnx
    from onnx import numpy_helper

    if not path.is_file():
        raise InputError(f"{path} does not exist; name the file of a network to go on from")
    graph = onnx.load(path).graph
    weights = {_plain(x.name): torch.from_numpy(numpy_helper.to_array(x).astype(np.float32)) for x in graph.initializer}
    own = dict(network.named_parameters()) | dict(network.named_buffers())
    merged = [node for node in graph.node if node.op_type == "Conv" and _plain(node.input[1]) not in own]
    pairs = _normed(network.eval(), samples[:1])
    named = {name: own[name] for name in weights if name in own}
    named |= {_plain(node.input[1]): conv.weight for node, (conv, _) in zip(merged, pairs, strict=False)}
    shifts = {_plain(node.input[2]) for node in merged}
    if len(merged) != len(pairs) or any(weights[x].shape != y.shape for x, y in named.items()):
        raise InputError(f"{path} is of another network than the recipe's; name one that this recipe has made")
    if left := set(weights) - set(named) - shifts:
        raise InputError(f"{path} has weights that the recipe's network has not: {min(left)}; name one of its kind")
    for name, x in named.items():
        x.copy_(weights[name])
    hooks = [
        norm.register_forward_pre_hook(partial(_given_back, shift=weights[_plain(node.input[2])]))
        for node, (_, norm) in zip(merged, pairs, strict=True)
    ]
    network(samples)
    for hook in hooks:
        hook.remove()


def _plain(name: str) -> str:
    return name.removesuffix(_HALF)


def _normed(network: nn.Module, sample: Tensor) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Every convolution with the batch norm behind it, in the order in which they are called."""
    called: list[nn.Module] = []
    hooks = [
        x.register_forward_hook(lambda module, *_: called.append(module))
        for x in network.modules()
        if isinstance(x, nn.Conv2d | nn.BatchNorm2d)
    ]
    network(sample)
    for hook in hooks:
        hook.remove()
    return [(a, b) for a, b in pairwise(called) if isinstance(a, nn.Conv2d) and isinstance(b, nn.BatchNorm2d)]


def _given_back(norm: nn.BatchNorm2d, given: tuple[Tensor], *, shift: Tensor) -> None:
    """A batch norm that does nothing to what comes in but to shift it."""
    mean, variance = given[0].mean((0, 2, 3)), given[0].var((0, 2, 3), unbiased=False)
    for x, value in (
        (norm.running_mean, mean), (norm.running_var, variance), (norm.weight, (variance + norm.eps).sqrt()),
        (norm.bias, mean + shift),
    ):  # fmt: skip
        assert x is not None
        x.copy_(value)

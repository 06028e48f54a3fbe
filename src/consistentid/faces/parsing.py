"""Which pixels belong to which part: face parsers."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import interpolate

from consistentid.errors import CheckpointError, first_line
from consistentid.faces.bisenet import BiSeNet
from consistentid.faces.onnx import open_session
from consistentid.faces.parts import LABELS
from consistentid.files.weights import check_network

_IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
_IMAGENET_STD: Final = (0.229, 0.224, 0.225)

_MAX_LOGITS: Final = 1024
"""Side up to which logits are interpolated; beyond it labels are repeated: 19 maps of 4,000 pixels take 1.2 GB."""

_LONGEST: Final = 2
"""Most sides of a square that the longer side of a picture gets, where a network takes more than squares."""

_ALIASES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "l_brow": "left_brow",
        "r_brow": "right_brow",
        "l_eye": "left_eye",
        "r_eye": "right_eye",
        "eye_g": "glasses",
        "l_ear": "left_ear",
        "r_ear": "right_ear",
        "ear_r": "earring",
        "mouth": "inner_mouth",
        "u_lip": "upper_lip",
        "l_lip": "lower_lip",
        "neck_l": "necklace",
    }
)
"""CelebAMask-HQ's own names -> ours."""


class FaceParser:
    """A network that labels pixels, behind the `Parser` protocol.

    Args:
        network: (B, 3, H, W) normalised RGB -> (B, K, h, w) logits, or an output that has them as `logits`.
        size: side of the network's input, of pictures that are not square the longer one: they are padded to a square,
            never squashed.
        mean, std: normalisation of RGB in [0, 1].
        labels: CelebAMask-HQ label of each of the network's K classes.
        multiple: the network takes sides that are multiples of this many pixels, so that `size` is the shorter side and
            little is padded; None for squares of `size` alone.
    """

    def __init__(
        self,
        network: nn.Module,
        size: int,
        mean: Sequence[float] = _IMAGENET_MEAN,
        std: Sequence[float] = _IMAGENET_STD,
        labels: Sequence[int] = tuple(range(len(LABELS))),
        multiple: int | None = None,
    ) -> None:
        self.network = network.eval().requires_grad_(False)
        self.size, self._multiple = size, multiple
        self._mean, self._std = (torch.tensor(values, dtype=torch.float32).view(3, 1, 1) for values in (mean, std))
        self._labels = np.array(labels, np.uint8)

    @classmethod
    def bisenet(cls, path: str | os.PathLike[str], device: torch.device | str = "cpu") -> FaceParser:
        """A BiSeNet from `face_parsing.pth` or the same keys as safetensors.

        Raises:
            CheckpointError: the file is missing, broken, or of another network.
        """
        if not Path(path).is_file():
            raise CheckpointError(f"no face parser {path}; check the path")
        try:
            if Path(path).suffix == ".safetensors":
                weights = load_file(path)
            else:
                weights = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # a broken file makes loaders raise nearly anything
            reason = first_line(error)
            raise CheckpointError(f"{path} is not a readable weights file ({reason}); get it again") from error
        network = BiSeNet()
        expected = network.state_dict()
        if not isinstance(weights, dict) or (
            wrong := [key for key, value in expected.items() if getattr(weights.get(key), "shape", None) != value.shape]
        ):
            detail = f"{len(wrong)} entries are missing or misshapen, such as {wrong[:3]}" if weights else "it is empty"
            raise CheckpointError(f"{path} is not a BiSeNet face parser: {detail}; face_parsing.pth is needed")
        network.load_state_dict({key: weights[key] for key in expected})
        return cls(network.to(device), size=512)

    @classmethod
    def segformer(
        cls,
        name_or_path: str | os.PathLike[str],
        device: torch.device | str = "cpu",
        revision: str | None = None,
        variant: str | None = None,
    ) -> FaceParser:
        """A SegFormer from a folder or the hub, with its preprocessor_config.json.

        Its classes are matched to CelebAMask-HQ by the names in `id2label`; without names its order counts.

        Raises:
            CheckpointError: the network cannot be loaded or has other classes.
        """
        from transformers import SegformerForSemanticSegmentation, SegformerImageProcessorPil

        try:
            processor = SegformerImageProcessorPil.from_pretrained(name_or_path, revision=revision)
            network, report = SegformerForSemanticSegmentation.from_pretrained(
                name_or_path, revision=revision, variant=variant, dtype=torch.float32, output_loading_info=True
            )
        except Exception as error:  # a broken file makes loaders raise nearly anything
            reason = first_line(error)
            raise CheckpointError(f"{name_or_path} is not a usable SegFormer ({reason}); check the name") from error
        check_network(network, report["missing_keys"], f"the SegFormer parser {name_or_path}")
        size = dict(processor.size)
        return cls(
            network.to(device),
            size=int(size.get("height") or size["shortest_edge"]),
            mean=processor.image_mean,
            std=processor.image_std,
            labels=label_order(network.config.id2label, str(name_or_path)),
        )

    @classmethod
    def onnx(
        cls,
        path: str | os.PathLike[str],
        size: int | None = None,
        mean: Sequence[float] = _IMAGENET_MEAN,
        std: Sequence[float] = _IMAGENET_STD,
        labels: Sequence[str] = LABELS,
        providers: Sequence[Any] = ("CPUExecutionProvider",),
    ) -> FaceParser:
        """A parser as ONNX, such as an exported BiSeNet: (B, 3, S, S) normalised RGB -> (B, K, h, w) logits.

        A file that leaves both sides open may say in its metadata that it takes pictures of any shape: ``side`` is S,
        the shorter side, and ``multiple`` is what divides both.

        Args:
            path: ONNX file; of several outputs the first of that kind counts.
            size: S, where the file leaves it open; 512 by default.
            mean, std: normalisation of RGB in [0, 1]; ImageNet's by default.
            labels: names of the K classes in the network's order, ours or CelebAMask-HQ's own; its order by default.
            providers: onnxruntime execution providers, in order of preference; see `onnx_providers`.

        Raises:
            CheckpointError: the file is missing, broken, or of another kind, or the options do not fit it.
        """
        order = label_order(dict(enumerate(labels)), str(path))
        network = _OnnxNetwork(path, len(order), providers)
        if size and network.side and size != network.side:
            raise CheckpointError(f"{path} takes pictures of {network.side} pixels, size={size} is wrong; leave it out")
        for name, values in (("mean", mean), ("std", std)):
            if len(values) != 3 or (name == "std" and not all(value > 0 for value in values)):
                raise CheckpointError(
                    f"{name}={list(values)} of {path} is not allowed; give three numbers, for R, G, B"
                )
        return cls(network, network.side or size or 512, mean, std, order, network.multiple)

    def parse(self, image: Image.Image) -> NDArray[np.uint8]:
        """(H, W) uint8 CelebAMask-HQ labels of an RGB picture, at its size."""
        return self.parse_batch([image])[0]

    def parse_batch(self, images: Sequence[Image.Image]) -> list[NDArray[np.uint8]]:
        """The labels of several pictures, of any sizes, by one run of the network for each shape that it sees."""
        return [self._read(logits, frame) for logits, frame in self._seen(images)]

    def parse_surely(self, images: Sequence[Image.Image]) -> list[tuple[NDArray[np.uint8], NDArray[np.float32]]]:
        """The labels of several pictures as `parse_batch` gives them, and (H, W) float32 how sure each pixel's is.

        That is the network's probability of the label, 1/K to 1.
        """
        return [
            (self._read(logits, frame), frame.window(logits.softmax(dim=0).amax(dim=0).cpu().numpy()))
            for logits, frame in self._seen(images)
        ]

    def pixels(self, image: Image.Image, sides: tuple[int, int] | None = None) -> Tensor:
        """The network's input for an RGB picture which fills it: (1, 3, H, W) float32, normalised.

        Args:
            image: of about the shape of the input.
            sides: (W, H) of the input; squares of `size` by default.
        """
        resized = image.resize(sides or (self.size, self.size), Image.Resampling.BILINEAR)
        values = torch.from_numpy(np.array(resized)).permute(2, 0, 1) / 255
        return ((values - self._mean) / self._std)[None]

    def _frame(self, image: Image.Image) -> _Frame:
        multiple, longest = (self._multiple, _LONGEST) if self._multiple else (self.size, 1)
        scale = max(min(image.size), max(image.size) / longest) / self.size
        sides = [math.ceil(x / scale / multiple - 1e-6) * multiple for x in image.size]  # a whole number is one
        around = [max(round(side * scale), x) for side, x in zip(sides, image.size, strict=True)]
        return _Frame(image.size, (around[0], around[1]), (sides[0], sides[1]))

    def _seen(self, images: Sequence[Image.Image]) -> list[tuple[Tensor, _Frame]]:
        """(K, h, w) logits of each picture, and where in them it is."""
        frames = [self._frame(image) for image in images]
        found: dict[int, Tensor] = {}
        for shape in {frame.network for frame in frames}:
            rows = [row for row, frame in enumerate(frames) if frame.network == shape]
            pixels = torch.cat([self.pixels(frames[row].padded(images[row]), shape) for row in rows])
            found |= zip(rows, self._logits(pixels), strict=True)
        return [(found[row], frame) for row, frame in enumerate(frames)]

    def _read(self, logits: Tensor, frame: _Frame) -> NDArray[np.uint8]:
        width, height = frame.around
        scale = min(1.0, _MAX_LOGITS / max(width, height))
        sides = max(round(height * scale), 1), max(round(width * scale), 1)
        full = interpolate(logits[None], sides, mode="bilinear", align_corners=False)
        return frame.window(self._labels[full[0].max(dim=0).indices.cpu().numpy()])  # three times as fast as argmax

    @torch.inference_mode()
    def _logits(self, pixels: Tensor) -> Tensor:
        weights = next(self.network.parameters())
        output: Any = self.network(pixels.to(weights.device, weights.dtype))
        logits: Tensor = getattr(output, "logits", output)
        return logits.float()


class _OnnxNetwork(nn.Module):
    """An ONNX file as a module. It computes where its session does, wherever its pixels come from.

    Args:
        path: ONNX file.
        classes: K.
        providers: onnxruntime execution providers, in order of preference; see `onnx_providers`.

    Raises:
        CheckpointError: the file is missing, broken, or a network of another kind.
    """

    def __init__(self, path: str | os.PathLike[str], classes: int, providers: Sequence[Any]) -> None:
        super().__init__()
        self._session = open_session(path, providers)
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        fitting = [node.name for node in outputs if len(node.shape) == 4 and _may_be(node.shape[1], classes)]
        shape = inputs[0].shape
        if len(inputs) != 1 or len(shape) != 4 or not _may_be(shape[1], 3) or not fitting:
            raise CheckpointError(
                f"{path} is not a face parser: it maps {[node.shape for node in inputs]} to"
                f" {[node.shape for node in outputs]}, needed is (B, 3, S, S) to (B, {classes}, h, w)"
            )
        self._input, self._output = inputs[0].name, fitting[0]
        open_sides = not any(isinstance(side, int) for side in shape[2:])
        told = self._session.get_modelmeta().custom_metadata_map if open_sides else {}
        self.side = shape[2] if isinstance(shape[2], int) else _number(told, "side", path)
        self.multiple = _number(told, "multiple", path)
        self._single = shape[0] == 1  # exported for one picture at a time
        self.home = nn.Parameter(torch.empty(0), requires_grad=False)  # modules are asked where they are

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits (B, K, h, w) of pictures (B, 3, H, W), on their device."""
        values = pixels.float().cpu().numpy()
        runs = np.split(values, len(values)) if self._single else [values]
        logits = [self._session.run([self._output], {self._input: run})[0] for run in runs]
        return torch.from_numpy(np.concatenate(logits)).to(pixels.device)


def _number(told: Mapping[str, str], name: str, path: str | os.PathLike[str]) -> int | None:
    """A number of pixels of a file's metadata; None where it says nothing."""
    if name not in told:
        return None
    if not told[name].isdecimal() or not 0 < int(told[name]) <= _MAX_LOGITS:
        raise CheckpointError(
            f"{path}: {name}={told[name]!r} of its metadata is not allowed; it is 1 to {_MAX_LOGITS} pixels"
        )
    return int(told[name])


def _may_be(length: int | str | None, wanted: int) -> bool:
    return length == wanted or not isinstance(length, int)


def label_order(names: Mapping[int, str], network: str) -> list[int]:
    """The CelebAMask-HQ label of each class, by its name.

    Args:
        names: class -> name, ours or those of CelebAMask-HQ; ``LABEL_3`` and the like say nothing.
        network: for the message.

    Raises:
        CheckpointError: names that are unknown or missing, or nameless classes that are not 19.
    """
    classes = [str(names[index]).lower().replace(" ", "_") for index in sorted(names)]
    if classes == [f"label_{index}" for index in range(len(LABELS))]:
        return list(range(len(LABELS)))
    ours = [_ALIASES.get(name, name) for name in classes]
    if sorted(ours) != sorted(LABELS):
        odd = sorted(set(ours).symmetric_difference(LABELS))
        raise CheckpointError(
            f"{network} is not a parser of the {len(LABELS)} CelebAMask-HQ classes: "
            f"it has {len(ours)}, and these are unknown or missing: {odd}"
        )
    return [LABELS.index(name) for name in ours]


@dataclass(frozen=True)
class _Frame:
    """A picture within what a network sees of it: its middle.

    Attributes:
        picture: (width, height) of the picture.
        around: the same with what is put around it, pixels of the picture.
        network: what the network sees of that, in its own pixels.
    """

    picture: tuple[int, int]
    around: tuple[int, int]
    network: tuple[int, int]

    @property
    def _corner(self) -> tuple[int, int]:
        (width, height), (wide, high) = self.picture, self.around
        return (wide - width) // 2, (high - height) // 2

    def padded(self, image: Image.Image) -> Image.Image:
        """The picture with its edges drawn out to the borders: black bars would be an object to the network."""
        if self.around == self.picture:
            return image
        (left, top), (width, height), (wide, high) = self._corner, self.picture, self.around
        margins = (top, high - height - top), (left, wide - width - left), (0, 0)
        return Image.fromarray(np.pad(np.asarray(image), margins, mode="edge"))

    def window(self, values: NDArray[Any]) -> NDArray[Any]:
        """What of a map of all that the network sees belongs to the picture, (H, W) at its size."""
        (left, top), (width, height) = self._corner, self.picture
        resized = np.asarray(Image.fromarray(values).resize(self.around, Image.Resampling.NEAREST))
        return resized[top : top + height, left : left + width].copy()

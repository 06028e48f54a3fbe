"""Where the faces are: SCRFD and YuNet from ONNX files."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from consistentid.errors import CheckpointError
from consistentid.faces.face import Detection
from consistentid.faces.onnx import open_session

Points = NDArray[np.float32]

_STRIDES: Final = (8, 16, 32)
_ANCHORS: Final = 2


_YUNET: Final = tuple(f"{kind}_{stride}" for kind in ("cls", "obj", "bbox", "kps") for stride in _STRIDES)
"""Names of YuNet's outputs."""


class OnnxDetector:
    """SCRFD or YuNet, told apart by their outputs: scores, boxes and five landmarks on grids of stride 8, 16 and 32.

    SCRFD takes (1, 3, S, S) RGB in [-1, 1] and has nine outputs, YuNet takes BGR from 0 to 255 and has twelve. Where
    either finds nothing, it is asked again with a frame round the picture (faces that fill it) and at larger sizes
    (small faces); a network of fixed size only with the frame.

    Args:
        path: ONNX file, such as det_10g.onnx.
        threshold: score from which something is a face.
        providers: onnxruntime execution providers, in order of preference; see `onnx_providers`.

    Raises:
        CheckpointError: the file is missing, broken, or a network of another kind.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        threshold: float = 0.5,
        providers: Sequence[Any] = ("CPUExecutionProvider",),
    ) -> None:
        self._session = open_session(path, providers)
        self._path = path
        self._threshold = threshold
        shape = self._session.get_inputs()[0].shape
        names = [node.name for node in self._session.get_outputs()]
        self._yunet = set(names) == set(_YUNET)
        if len(shape) != 4 or shape[1] != 3 or not (self._yunet or len(names) == 3 * len(_STRIDES)):
            cascade = "; MTCNN is a cascade of three such networks, and not supported" if len(names) in (2, 3) else ""
            raise CheckpointError(
                f"{path} is not a face detector: input {shape} and {len(names)} outputs, needed are (1, 3, S, S) and"
                f" SCRFD's nine outputs, or the twelve of YuNet, at strides 8, 16 and 32{cascade}"
            )
        self._fixed = shape[2] if isinstance(shape[2], int) else None
        self._input = self._session.get_inputs()[0].name

    def detect(self, image: Image.Image) -> list[Detection]:
        """All faces of an RGB picture, most certain first."""
        for size, frame in self._attempts(max(image.size)):
            if found := self._detect(image, size, frame):
                return found
        return []

    def detect_batch(self, images: Sequence[Image.Image]) -> list[list[Detection]]:
        """The faces of several pictures, one after another: networks of this kind take one at a time."""
        return [self.detect(image) for image in images]

    def _attempts(self, side: int) -> Iterator[tuple[int, float]]:
        """Sizes of the network's input, and the frame's width as a share of it."""
        size = self._fixed or 640
        yield size, 0.0
        yield size, 0.25
        if self._fixed is None:
            yield from ((larger, 0.0) for larger in (1280, 2560) if side > larger // 2)

    def _detect(self, image: Image.Image, size: int, frame: float) -> list[Detection]:
        offset = round(size * frame)
        scale = (size - 2 * offset) / max(image.size)
        width, height = (max(1, round(length * scale)) for length in image.size)
        canvas = Image.new("RGB", (size, size))
        canvas.paste(image.resize((width, height), Image.Resampling.BILINEAR), (offset, offset))
        pixels = np.asarray(canvas, np.float32).transpose(2, 0, 1)[None]
        if self._yunet:
            outputs = self._session.run(list(_YUNET), {self._input: np.ascontiguousarray(pixels[:, ::-1])})
            scores, boxes, landmarks = self._decode_yunet(outputs, size)
        else:
            outputs = self._session.run(None, {self._input: (pixels - np.float32(127.5)) / np.float32(128)})
            scores, boxes, landmarks = self._decode(outputs, size)
        boxes = ((boxes - offset) / np.float32(scale)).clip(0, image.size * 2)
        landmarks = (landmarks - offset) / np.float32(scale)
        inside = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        boxes, landmarks, scores = boxes[inside], landmarks[inside], scores[inside]
        return [Detection(boxes[index], landmarks[index], float(scores[index])) for index in suppress(boxes, scores)]

    def _decode(self, outputs: Sequence[NDArray[np.float32]], size: int) -> tuple[Points, Points, Points]:
        """Candidates above the threshold: scores (K,), boxes (K, 4), landmarks (K, 5, 2) in pixels of the canvas."""
        by_width: dict[int, list[NDArray[np.float32]]] = {1: [], 4: [], 10: []}
        for output in outputs:
            flat = output.reshape(-1, output.shape[-1])
            by_width.setdefault(flat.shape[1], []).append(flat)
        levels = [sorted(group, key=len, reverse=True) for group in by_width.values()]
        expected = [_ANCHORS * (size // stride) ** 2 for stride in _STRIDES]
        if len(levels) != 3 or any([len(level) for level in group] != expected for group in levels):
            found = [output.shape for output in outputs]
            raise CheckpointError(
                f"{self._path} is not a face detector: for an input of {size} pixels its outputs are {found}, "
                f"needed are {expected} rows of 1, 4 and 10 numbers"
            )
        scores, boxes, landmarks = [], [], []
        for stride, score, distances, offsets in zip(_STRIDES, *levels, strict=True):
            sure = np.flatnonzero(score[:, 0] >= self._threshold)
            row, column = np.divmod(sure // _ANCHORS, size // stride)
            centres = np.stack([column, row], axis=1).astype(np.float32) * stride
            left_top, right_bottom = np.split(distances[sure] * stride, 2, axis=1)
            scores.append(score[sure, 0])
            boxes.append(np.concatenate([centres - left_top, centres + right_bottom], axis=1))
            landmarks.append(centres[:, None] + offsets[sure].reshape(-1, 5, 2) * stride)
        # The network counts from the centre of the first pixel.
        half = np.float32(0.5)
        return np.concatenate(scores), np.concatenate(boxes) + half, np.concatenate(landmarks) + half

    def _decode_yunet(self, outputs: Sequence[NDArray[np.float32]], size: int) -> tuple[Points, Points, Points]:
        """The same of `_YUNET`: the score is the root of two, boxes are middles and logarithms of their sides."""
        flat = [output.reshape(-1, output.shape[-1]) for output in outputs]
        cells = [(size // stride) ** 2 for stride in _STRIDES]
        if [len(output) for output in flat] != 4 * cells:
            found = [output.shape for output in outputs]
            raise CheckpointError(
                f"{self._path} is not a YuNet: for an input of {size} pixels its outputs are {found}, needed are"
                f" {cells} rows of each kind"
            )
        scores, boxes, landmarks = [], [], []
        levels = (flat[kind * len(_STRIDES) : (kind + 1) * len(_STRIDES)] for kind in range(4))
        for stride, face, there, box, points in zip(_STRIDES, *levels, strict=True):
            score = np.sqrt(face[:, 0].clip(0, 1) * there[:, 0].clip(0, 1))
            sure = np.flatnonzero(score >= self._threshold)
            corner = np.stack(np.divmod(sure, size // stride)[::-1], axis=1).astype(np.float32)
            middle, half = (corner + box[sure, :2]) * stride, np.exp(box[sure, 2:]) * stride / 2
            scores.append(score[sure])
            boxes.append(np.concatenate([middle - half, middle + half], axis=1))
            landmarks.append((corner[:, None] + points[sure].reshape(-1, 5, 2)) * stride)
        return np.concatenate(scores), np.concatenate(boxes), np.concatenate(landmarks)


def suppress(boxes: Points, scores: Points, overlap: float = 0.4) -> list[int]:
    """Indices of boxes (K, 4), best score first, without those that overlap a better one by more (IoU)."""
    area = np.prod((boxes[:, 2:] - boxes[:, :2]).clip(0), axis=1)
    order, kept = np.argsort(-scores, kind="stable"), []
    while len(order):
        best, rest = order[0], order[1:]
        kept.append(int(best))
        low = np.maximum(boxes[best, :2], boxes[rest, :2])
        high = np.minimum(boxes[best, 2:], boxes[rest, 2:])
        shared = np.prod((high - low).clip(0), axis=1)
        order = rest[shared <= overlap * (area[best] + area[rest] - shared)]
    return kept

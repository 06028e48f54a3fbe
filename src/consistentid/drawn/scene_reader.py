"""What a drawn scene shows: the truth of drawings, and a network that reads it off any picture."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from consistentid.drawn.portraits import Scenes
from consistentid.drawn.portraits.scenes import (
    BACKGROUNDS,
    CLOTHES,
    COLORS,
    EXPRESSIONS,
    GLASSES,
    HATS,
    STYLES,
    clothes_seen,
)
from consistentid.errors import CheckpointError
from consistentid.faces.onnx import open_session
from consistentid.files.weights import fingerprint

FACTORS: Mapping[str, tuple[str, ...]] = {
    "hat": HATS,
    "hat_color": tuple(COLORS),
    "glasses": GLASSES,
    "clothes": CLOTHES,
    "clothes_color": tuple(COLORS),
    "background": BACKGROUNDS,
    "background_color": tuple(COLORS),
    "expression": EXPRESSIONS,
    "style": STYLES,
}
"""What a prompt can ask of a drawn scene: factor -> the values it can have, as `Scenes` numbers them."""

UNSEEN = -1
"""Value of a factor that a scene has but does not show, such as the colour of no hat."""

_BATCH = 64
_WIDTHS = [len(values) for values in FACTORS.values()]

VALUES = sum(_WIDTHS)
"""Of all factors together: the logits of a picture."""

_COLORED = {
    "hat_color": ("hat", [i for i, name in enumerate(HATS) if name not in ("none", "crown")]),
    "background_color": ("background", [BACKGROUNDS.index(name) for name in ("plain", "wallpaper")]),
}


def shown(scenes: Scenes) -> NDArray[np.int64]:
    """(K, F) number of the value of every factor of `FACTORS`; `UNSEEN` where it is not to be seen."""
    columns = []
    for factor in FACTORS:
        values = getattr(scenes, factor)
        if factor in _COLORED:
            thing, visible = _COLORED[factor]
            values = np.where(np.isin(getattr(scenes, thing), visible), values, UNSEEN)
        if factor in ("clothes", "clothes_color"):
            values = np.where(clothes_seen(scenes), values, UNSEEN)
        columns.append(values)
    return np.stack(columns, 1)


def split_factors(logits: Any) -> list[Any]:
    """(K, V) over all values of all factors, an array or a tensor -> (K, values) of each factor of `FACTORS`."""
    ends = np.cumsum(_WIDTHS)
    return [logits[:, end - width : end] for width, end in zip(_WIDTHS, ends, strict=True)]


class SceneReader:
    """Reads `FACTORS` off pictures; learnt from drawings only (`training/drawn/scene_reader.py`).

    Args:
        path: ONNX file of a network that takes (B, 3, S, S) RGB in [-1, 1] and gives (B, V), a logit for each value of
            each factor.
        providers: onnxruntime execution providers, in order of preference; see `onnx_providers`.

    Raises:
        CheckpointError: the file is missing, broken, or a network of another kind.
    """

    def __init__(self, path: str | os.PathLike[str], providers: Sequence[Any] = ("CPUExecutionProvider",)) -> None:
        self.name = fingerprint(path)
        self._session = open_session(path, providers)
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        shapes = [node.shape for node in (*inputs, *outputs)]
        if len(shapes) != 2 or len(shapes[0]) != 4 or shapes[1][1:] != [VALUES]:
            raise CheckpointError(
                f"{path} does not read scenes: it maps {shapes[: len(inputs)]} to {shapes[len(inputs) :]}, needed is"
                f" (B, 3, S, S) to (B, {VALUES})"
            )
        self._input, self._size = inputs[0].name, shapes[0][2:]

    def read(self, pictures: Sequence[Image.Image]) -> NDArray[np.int64]:
        """(K, F) number of the value that each of K RGB pictures of any size shows, for every factor of `FACTORS`."""
        found = [np.zeros((0, len(FACTORS)), np.int64)]
        for start in range(0, len(pictures), _BATCH):
            resized = [x.resize(self._size, Image.Resampling.LANCZOS) for x in pictures[start : start + _BATCH]]
            pixels = np.stack([np.asarray(x, np.float32) for x in resized]).transpose(0, 3, 1, 2)
            logits = self._session.run(None, {self._input: pixels / np.float32(127.5) - np.float32(1)})[0]
            found.append(np.stack([x.argmax(1) for x in split_factors(logits)], 1))
        return np.concatenate(found)

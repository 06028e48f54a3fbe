"""What a drawing shows of scene and person: the truth of drawings, and a network that reads it off any picture."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from consistentid.drawn.portraits import People, Scenes
from consistentid.drawn.portraits.captions import PART_KINDS, part_kinds
from consistentid.drawn.portraits.people import EYES, HAIR, HAIRSTYLES
from consistentid.drawn.portraits.scenes import (
    BACKGROUNDS,
    CLOTHES,
    COLORS,
    EXPRESSIONS,
    GLASSES,
    HATS,
    STYLES,
    clothes_seen,
    framing,
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
    "hair_color": tuple(HAIR),
    "eyes": tuple(EYES),
    **{part: PART_KINDS[part] for part in ("face", "nose", "mouth")},
}
"""What words can ask of a drawing: factor -> its values, as `Scenes` and `People` number them, or `part_kinds` names
them."""

OWN = ("hair_color", "eyes", "face", "nose", "mouth")
"""The factors that are a person's own, in every scene; for most of them words for single parts ask."""

UNSEEN = -1
"""Value of a factor that a scene has but does not show, such as the colour of no hat."""

_BATCH = 64
_WIDTHS = [len(values) for values in FACTORS.values()]

VALUES = sum(_WIDTHS)
"""Of all factors together: the logits of a picture."""


def shown(people: People, scenes: Scenes) -> NDArray[np.int64]:
    """(K, F) number of the value of every factor of `FACTORS` in K pictures; `UNSEEN` where it is not to be seen."""
    seen = _seen(people, scenes)
    kinds = [part_kinds(people, row) for row in range(len(people))]
    columns = []
    for factor, names in FACTORS.items():
        if factor == "hair_color":
            values = people.hair_color
        elif factor in kinds[0]:
            values = np.array([names.index(kind[factor]) for kind in kinds])
        else:
            values = getattr(scenes, factor)
        columns.append(np.where(seen.get(factor, np.True_), values, UNSEEN))
    return np.stack(columns, 1)


def _seen(people: People, scenes: Scenes) -> dict[str, NDArray[np.bool_]]:
    """(K,) where each factor is to be seen, of those that sometimes are not."""
    hat, background = np.array(HATS)[scenes.hat], np.array(BACKGROUNDS)[scenes.background]
    colored = np.array(STYLES)[scenes.style] != "pencil"
    large = np.isin([framing(float(scale)) for scale in scenes.scale], ("close-up", "portrait"))
    clothes = clothes_seen(scenes)
    return {
        "hat_color": colored & ~np.isin(hat, ("none", "crown")),
        "clothes": clothes,
        "clothes_color": colored & clothes,
        "background_color": colored & np.isin(background, ("plain", "wallpaper")),
        "hair_color": colored & ~np.isin(np.array(HAIRSTYLES)[people.hairstyle], ("bald", "buzz-cut")),
        "eyes": colored & large & (np.array(GLASSES)[scenes.glasses] != "sunglasses"),
        "face": large,
        "nose": large,
        "mouth": large & (np.array(EXPRESSIONS)[scenes.expression] == "neutral"),
    }


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

"""Who of several people goes where a first pass has drawn a face: by the words that are said of them, or in order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from consistentid.faces.face import Detection
from consistentid.faces.matching import assign, similarities
from consistentid.faces.portrait import head
from consistentid.presets.clip_pair import ClipEncoder

NEUTRAL = "a person"
"""What is said of somebody of whom nothing is said; the words of the others count by what they add to it."""

NO_WORDS = "nothing is said that tells the people apart"
NO_PAIR = "the preset has no text encoder that goes with its image encoder, so words cannot be compared with faces"


@dataclass(frozen=True)
class Placement:
    """How the people of a picture were put where they are.

    Attributes:
        faces: for each person the number of their face.
        reason: why they stand in order, from left to right; empty where words decided.
        likeness: (P, F) of each person's words to each face, where words decided: cosine of the CLIP pair less that of
            `NEUTRAL`.
    """

    faces: tuple[int, ...]
    reason: str = ""
    likeness: NDArray[np.float32] | None = None

    @classmethod
    def in_order(cls, people: int, reason: str) -> Placement:
        """Everybody from left to right, as they are named."""
        return cls(tuple(range(people)), reason)

    @classmethod
    def by_words(cls, likeness: NDArray[np.float32]) -> Placement:
        """So that the sum of likenesses is largest; where no order is better than the one from left to right, that.

        Args:
            likeness: (P, P) of words to faces, the faces from left to right.
        """
        found = [face for face in assign(likeness) if face is not None]
        order = range(len(likeness))
        if likeness[order, found].sum() <= likeness[order, order].sum():
            found = list(order)
        return cls(tuple(found), likeness=likeness)

    def record(self) -> dict[str, Any]:
        """As plain values."""
        if self.likeness is None:
            return {"by": "order", "reason": self.reason}
        rows = [[round(float(value), 4) for value in row] for row in self.likeness]
        return {"by": "words", "faces": list(self.faces), "likeness": rows}


def told_apart(words: Sequence[str]) -> bool:
    """Whether words differ from person to person."""
    return len(set(words)) > 1


def likeness_to_words(
    pair: ClipEncoder, picture: Image.Image, faces: Sequence[Detection], words: Sequence[str]
) -> NDArray[np.float32]:
    """How much more a head looks like what is said of each person than like anybody.

    Args:
        pair: compares pictures and texts.
        picture: RGB picture.
        faces: F faces in it.
        words: of P people; empty for people of whom nothing is said, who are alike to all faces.

    Returns:
        (P, F) differences of cosines.
    """
    heads = [head(picture, face, [other for other in faces if other is not face]) for face in faces]
    seen = _unit(pair.embed(heads))
    said = _unit(pair.embed_texts([NEUTRAL, *(text or NEUTRAL for text in words)]))
    alike = similarities(list(said), list(seen))
    return np.asarray(alike[1:] - alike[:1], np.float32)


def _unit(rows: NDArray[Any]) -> NDArray[np.float32]:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)

"""Whose face is whose in a picture, and how alike it is to its person."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from consistentid.adapter.identity import Identity
from consistentid.adapter.regions import Regions
from consistentid.faces.analyzer import FaceAnalyzer
from consistentid.faces.face import Detection, largest_first
from consistentid.faces.matching import assign, similarities
from consistentid.pipeline.places import faces_in


@dataclass(frozen=True)
class Seen:
    """All faces of a picture, largest first, and each person's: its number and its likeness, or None and NaN."""

    faces: list[Detection]
    numbers: list[int | None]
    likenesses: list[float]


def find_people(
    analyzer: FaceAnalyzer, image: Image.Image, people: Sequence[Identity], regions: Regions | None
) -> Seen:
    """Each person's face: one person's is the largest, several people's lie in their regions, or are the most alike.

    Args:
        analyzer: its networks are where they compute.
        image: RGB picture.
        people: whom to look for.
        regions: where they are, if that is known.
    """
    faces = largest_first(analyzer.detector.detect(image))
    theirs = faces[:1] if len(people) == 1 and regions is None else faces
    embeddings = [analyzer.recogniser.embed(image, face.landmarks) for face in theirs]
    alike = similarities([person.embedding.numpy() for person in people], embeddings)
    numbers = faces_in(regions, faces, image.size) if regions else assign(alike)
    likenesses = [math.nan if face is None else float(alike[i, face]) for i, face in enumerate(numbers)]
    return Seen(faces, numbers, likenesses)

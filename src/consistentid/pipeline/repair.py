"""Repair: faces too small for the base are cut out with what is around them, drawn anew large, and put back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageDraw, ImageFilter

from consistentid.adapter.identity import Identity
from consistentid.adapter.regions import Regions
from consistentid.faces.analyzer import FaceAnalyzer
from consistentid.faces.face import Detection, largest_first
from consistentid.pipeline.likeness import find_people
from consistentid.pipeline.networks import PresetNetworks
from consistentid.pipeline.request import SEEDS, Request, Row

SMALL = 0.3
"""Side of a face, as a share of the base's shorter side, from which the base draws it well."""

STRENGTH = 0.6
"""How far a face is drawn anew: its pose and light stay."""

_GROWN = 1.3  # the ellipse that is drawn anew, in sizes of the face's box
_SOFT = 0.08  # of the box's side: how far its edge is blurred


@dataclass(frozen=True)
class Repaired:
    """One face that was drawn anew.

    Attributes:
        picture: its number.
        person: the number of whose face it is.
        box: (left, top, right, bottom) of the face, pixels.
        before, after: likeness, after the best try; NaN where no face was found any more.
        tries: how often it was drawn.
        kept: whether a new face is in the picture: it is where it is not less like.
    """

    picture: int
    person: int
    box: tuple[int, int, int, int]
    before: float
    after: float
    tries: int
    kept: bool

    def record(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "person": self.person,
            "box": list(self.box),
            "likeness_before": self.before,
            "likeness_after": self.after,
            "tries": self.tries,
            "kept": self.kept,
        }


def is_small(face: Detection, native: tuple[int, int]) -> bool:
    """Whether the base draws a face of this many pixels badly."""
    return face.side < SMALL * min(native)


def face_mask(face: Detection, size: tuple[int, int], others: Sequence[Detection] = ()) -> Image.Image:
    """What of a picture is drawn anew for one face: an ellipse round it with a soft edge, without the other faces.

    Args:
        face: in a picture.
        size: width and height of that picture.
        others: faces that stay as they are.

    Returns:
        "L": 255 where it is drawn anew, 0 where nothing changes.
    """
    left, top, right, bottom = (float(value) for value in face.box)
    x, y = face.centre
    half_width, half_height = _GROWN * (right - left) / 2, _GROWN * (bottom - top) / 2
    mask = Image.new("L", size, 0)
    pen = ImageDraw.Draw(mask)
    pen.ellipse((x - half_width, y - half_height, x + half_width, y + half_height), fill=255)
    mask = mask.filter(ImageFilter.GaussianBlur(max(_SOFT * face.side, 1)))
    pen = ImageDraw.Draw(mask)
    for other in others:
        pen.rectangle(tuple(float(value) for value in other.box), fill=0)
    return mask


def redraw_faces(
    networks: PresetNetworks, image: Image.Image, request: Request, places: Regions | None, row: Row, picture: int = 0
) -> tuple[Image.Image, list[Repaired]]:
    """The picture with every small or unlike face of the request's people drawn anew, where that is not less like.

    Args:
        networks: draw and look.
        image: RGB picture.
        request: who is in it, and what is said of them.
        places: where they are in it, if that is known.
        row: the picture's prompt and seed.
        picture: its number.
    """
    people, native = list(request.people), networks.sampler.native_size
    enough = -1.0 if request.repair_below is None else request.repair_below
    with networks.faces_at_work():
        seen = find_people(networks.analyzer, image, people, places)
    done = []
    for person, (number, before) in enumerate(zip(seen.numbers, seen.likenesses, strict=True)):
        if number is None:
            continue
        face = seen.faces[number]
        unlike = request.repair_below is not None and before < request.repair_below
        if not is_small(face, native) and not unlike:
            continue
        mask = face_mask(face, image.size, [other for other in seen.faces if other is not face])
        likeness, tried = before, []
        for number in range(request.repair_tries):
            seed = (row.seed + number) % SEEDS
            new = networks.draw(request.close_up(person, row.prompt, seed, image, mask, STRENGTH)).images[0]
            with networks.faces_at_work():
                tried.append(_likeness(networks.analyzer, new, face, people[person]))
            if tried[-1] >= likeness:
                image, likeness = new, tried[-1]
                if likeness >= enough:
                    break
        after = max((x for x in tried if not math.isnan(x)), default=math.nan)
        left, top, right, bottom = (round(float(value)) for value in face.box)
        done.append(
            Repaired(picture, person, (left, top, right, bottom), before, after, len(tried), kept=after >= before)
        )
    return image, done


def _likeness(analyzer: FaceAnalyzer, picture: Image.Image, face: Detection, person: Identity) -> float:
    """Likeness of the face that lies where another one was; NaN if there is none."""
    found = _face_within(largest_first(analyzer.detector.detect(picture)), face)
    if found is None:
        return math.nan
    return float(analyzer.recogniser.embed(picture, found.landmarks) @ person.embedding.numpy())


def _face_within(faces: Sequence[Detection], face: Detection) -> Detection | None:
    """The first of the faces that lies where another one was."""
    left, top, right, bottom = (float(value) for value in face.box)
    there = (x for x in faces if left <= x.centre[0] <= right and top <= x.centre[1] <= bottom)
    return next(there, None)

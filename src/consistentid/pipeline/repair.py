"""Repair: faces too small for the base are cut out with what is around them, drawn anew large, and put back.

Before that, whoever has no face in their place, in a picture that was made of them, is drawn there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from consistentid.adapter.identity import Identity
from consistentid.adapter.regions import Regions
from consistentid.faces.analyzer import FaceAnalyzer
from consistentid.faces.face import Detection, largest_first
from consistentid.pipeline.canvas import Canvas
from consistentid.pipeline.likeness import Seen, find_people
from consistentid.pipeline.networks import PresetNetworks
from consistentid.pipeline.request import SEEDS, Request, Row

SMALL = 0.3
"""Side of a face, as a share of the base's shorter side, from which the base draws it well."""

STRENGTH = 0.6
"""How far a face is drawn anew: its pose and light stay."""

MISSING_STRENGTH = 0.75
"""How far the place of somebody who has no face there is drawn anew: what is behind them hardly changes."""

_GROWN = 1.3  # the ellipse that is drawn anew, in sizes of the face's box
_SOFT = 0.08  # of the side of what is drawn anew: how far its edge is blurred

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Repaired:
    """One face that was drawn anew.

    Attributes:
        picture: its number.
        person: the number of whose face it is.
        box: (left, top, right, bottom), pixels, of the face, or of the place of somebody who had none.
        before, after: likeness, after the best try; NaN where no face was found.
        tries: how often it was drawn.
        kept: whether a new face is in the picture: it is where it is not less like, or where none was.
    """

    picture: int
    person: int
    box: Box
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
    return _softened(mask, face.side, others)


def place_mask(places: Regions, person: int, size: tuple[int, int], faces: Sequence[Detection] = ()) -> Image.Image:
    """What of a picture is drawn anew for somebody who is missing: their place with a soft edge, without any face.

    Args:
        places: of the people.
        person: number of the one who is missing.
        size: width and height of the picture.
        faces: in the picture, which stay as they are.

    Returns:
        "L": 255 where it is drawn anew, 0 where nothing changes.
    """
    weights = places.weights(size[1], size[0])[person].numpy()
    return _softened(Image.fromarray((255 * weights).round().astype(np.uint8)), min(size) / 2, faces)


def _softened(mask: Image.Image, side: float, faces: Sequence[Detection]) -> Image.Image:
    """The mask of something of that side with a soft edge, without the faces."""
    mask = mask.filter(ImageFilter.GaussianBlur(max(_SOFT * side, 1)))
    pen = ImageDraw.Draw(mask)
    for face in faces:
        pen.rectangle(tuple(float(value) for value in face.box), fill=0)
    return mask


def redraw_faces(
    networks: PresetNetworks, image: Image.Image, request: Request, places: Regions | None, row: Row, picture: int = 0
) -> tuple[Image.Image, list[Repaired]]:
    """The picture with every small or unlike face of the request's people drawn anew, where that is not less like.

    In a picture that was made of the people, whoever has no face in their place is drawn there first.

    Args:
        networks: draw and look.
        image: RGB picture.
        request: who is in it, and what is said of them.
        places: where they are in it, if that is known.
        row: the picture's prompt and seed.
        picture: its number.
    """
    people, native, analyzer = request.people, networks.sampler.native_size, networks.analyzer

    def look() -> Seen:
        with networks.faces_at_work():
            return find_people(analyzer, image, people, places)

    def missing(person: int, places: Regions, mask: Image.Image, box: Box) -> _Part:
        there = places.inside(Canvas.around(mask, native).box, image.size)

        def asked(number: int, image: Image.Image) -> Request:
            seed = (row.seed + 1 + number) % SEEDS  # that of the picture would leave them out again
            return request.place_anew(there, places, row.prompt, seed, image, mask, MISSING_STRENGTH)

        return _Part(
            person, box, math.nan, asked, lambda image: find_people(analyzer, image, people, places).likenesses[person]
        )

    def unlike(person: int, face: Detection, others: Sequence[Detection], before: float) -> _Part:
        mask = face_mask(face, image.size, others)

        def asked(number: int, image: Image.Image) -> Request:
            return request.close_up(person, row.prompt, (row.seed + number) % SEEDS, image, mask, STRENGTH)

        left, top, right, bottom = (round(float(value)) for value in face.box)
        return _Part(
            person, (left, top, right, bottom), before, asked,
            lambda image: _likeness(analyzer, image, face, people[person]),
        )  # fmt: skip

    done = []
    seen = look()
    if places is not None and request.image is None:
        for person in (person for person, number in enumerate(seen.numbers) if number is None):
            mask = place_mask(places, person, image.size, seen.faces)
            if box := mask.getbbox():
                image, repaired = _drawn_anew(networks, image, request, picture, missing(person, places, mask, box))
                done.append(repaired)
                if repaired.kept:
                    seen = look()
    for person, (number, before) in enumerate(zip(seen.numbers, seen.likenesses, strict=True)):
        if number is None:
            continue
        face = seen.faces[number]
        if is_small(face, native) or (request.repair_below is not None and before < request.repair_below):
            others = [other for other in seen.faces if other is not face]
            image, repaired = _drawn_anew(networks, image, request, picture, unlike(person, face, others, before))
            done.append(repaired)
    return image, done


@dataclass(frozen=True)
class _Part:
    """What of a picture is drawn anew.

    Attributes:
        person, box, before: as of `Repaired`.
        asked: the request for a try, by its number and the picture that it begins from.
        likeness: of the person there, in another picture, with the face networks at work; NaN without a face.
    """

    person: int
    box: Box
    before: float
    asked: Callable[[int, Image.Image], Request]
    likeness: Callable[[Image.Image], float]


def _drawn_anew(
    networks: PresetNetworks, image: Image.Image, request: Request, picture: int, part: _Part
) -> tuple[Image.Image, Repaired]:
    """The best of the tries, each of which begins from the best so far; NaN is less than any likeness."""
    enough = -1.0 if request.repair_below is None else request.repair_below
    before = -math.inf if math.isnan(part.before) else part.before
    best, tried = before, []
    for number in range(request.repair_tries):
        new = networks.draw(part.asked(number, image)).images[0]
        with networks.faces_at_work():
            tried.append(part.likeness(new))
        if tried[-1] >= best:
            image, best = new, tried[-1]
            if best >= enough:
                break
    after = max((x for x in tried if not math.isnan(x)), default=math.nan)
    return image, Repaired(picture, part.person, part.box, part.before, after, len(tried), kept=after >= before)


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

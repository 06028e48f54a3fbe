"""Several people without regions: a first pass of the base alone shows where it draws faces, and they go there."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence

from PIL import Image

from consistentid.errors import FaceError
from consistentid.faces.face import Detection, largest_first
from consistentid.files.devices import moved
from consistentid.pipeline.networks import PresetNetworks
from consistentid.pipeline.placement import NO_PAIR, NO_WORDS, Placement, likeness_to_words, told_apart
from consistentid.pipeline.places import regions_of
from consistentid.pipeline.request import SEEDS, Request

TRIES = 8
"""Seeds that are tried for a picture of several people until the base draws as many faces."""


def placed(networks: PresetNetworks, request: Request) -> Iterator[tuple[Request, Placement]]:
    """A request for each picture, with regions where the base alone draws faces from the same noise.

    A seed with too few faces is replaced by another one, which a `UserWarning` tells.

    Raises:
        FaceError: too few faces, whatever the seed.
    """
    people, rows = request.people, request.rows()
    said = [text for text in request.person_prompts or () if text]
    size = networks.sampler.size(request, request.settings(networks.preset.settings))
    for number, row in enumerate(rows):
        for attempt in range(TRIES):
            seed = (row.seed + attempt * request.made) % SEEDS
            first = networks.draw(request.without_people(", ".join([row.prompt, *said]), seed, size)).images[0]
            with networks.faces_at_work():
                faces = largest_first(networks.analyzer.detector.detect(first))
            if len(faces) >= len(people):
                break
        else:
            raise FaceError(
                f"the base draws fewer than {len(people)} faces for {row.prompt!r}, with {TRIES} seeds from"
                f" {row.seed}; name the people in the prompt, or say with regions where each is"
            )
        if attempt:
            warnings.warn(
                f"seed {row.seed} shows fewer than {len(people)} faces, so seed {seed} was taken instead",
                stacklevel=4,
            )
        there = sorted(faces[: len(people)], key=lambda face: face.centre[0])
        placement = _placement(networks, request, first, there)
        regions = regions_of([there[face] for face in placement.faces], first.size)
        yield request.for_picture(row.prompt, seed, regions, number, len(rows)), placement


def _placement(networks: PresetNetworks, request: Request, first: Image.Image, faces: Sequence[Detection]) -> Placement:
    """Who goes to which of the faces of a first pass, which are given from left to right."""
    words = request.descriptions
    if not told_apart(words):
        return Placement.in_order(len(faces), NO_WORDS)
    with moved(networks.device, networks.encoder.image_encoder):
        pair = networks.clip_pair
        placement = (
            Placement.in_order(len(faces), NO_PAIR)
            if pair is None
            else Placement.by_words(likeness_to_words(pair, first, faces, words))
        )
    if networks.low_memory:
        del networks.encoder, networks.clip_pair
    return placement

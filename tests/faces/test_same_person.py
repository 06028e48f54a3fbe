"""The drawn preset knows from which likeness on two drawings are of one person; measured on held-out people."""

import numpy as np
import pytest
from PIL import Image

from consistentid.drawn.portraits import draw, sample_people, sample_scenes
from consistentid.errors import FaceError
from consistentid.pipeline.pipeline import ConsistentIDPipeline

PEOPLE = 12


def test_same_person_parts_people_and_keeps_pictures_of_one_together() -> None:
    studio = ConsistentIDPipeline.from_preset("drawn")
    analyzer, threshold = studio.analyzer, studio.encoder.same_person
    assert threshold == studio.preset.same_person
    who = np.repeat(np.arange(PEOPLE), 2)
    scenes = sample_scenes([(person, scene) for person, scene in zip(who, [0, 1] * PEOPLE, strict=True)], split="test")
    photos = [Image.fromarray(pixels) for pixels in draw(sample_people(who, split="test"), scenes, 128).pixels()]
    faces = [analyzer.detect(photo)[0] for photo in photos]
    pairs = zip(photos, faces, strict=True)
    embeddings = np.stack([analyzer.recogniser.embed(photo, face.landmarks) for photo, face in pairs])
    likeness = embeddings @ embeddings.T
    same = (who[:, None] == who) & ~np.eye(len(who), dtype=bool)
    other = who[:, None] != who
    assert (likeness[same] >= threshold).mean() >= 0.75
    assert (likeness[other] >= threshold).mean() <= 0.15

    one = next(person for person in range(PEOPLE) if likeness[2 * person, 2 * person + 1] >= threshold)
    stranger = next(i for i in np.flatnonzero(who != one) if max(likeness[i, 2 * one : 2 * one + 2]) < threshold)
    pair = photos[2 * one : 2 * one + 2]
    assert studio.identify(*pair).visible_parts
    with pytest.raises(FaceError, match=r"^picture 2: not of the person"):
        studio.identify(pair[0], photos[stranger], pair[1])

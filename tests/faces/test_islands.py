"""Labels far from the landmarks are no part of the face."""

from __future__ import annotations

import numpy as np
import pytest
from hand_drawn import ellipse, face_labels, landmarks_of

from consistentid.drawn.portraits import draw, sample_people, sample_scenes
from consistentid.faces.analyzer import FaceAnalyzer
from consistentid.faces.islands import remove_islands
from consistentid.files.images import load_image

FACE = face_labels(300, 260, (150, 120, 120))
POINTS = landmarks_of(150, 120, 120)


@pytest.mark.parametrize("label", [1, 2, 5, 7, 10, 12])
def test_an_island_goes_and_the_face_stays(label: int) -> None:
    labels = FACE.copy()
    ellipse(labels, 24, 24, 14, 10, label)
    remove_islands(labels, POINTS)
    np.testing.assert_array_equal(labels, FACE)


def test_what_hangs_together_with_a_part_ends_where_the_face_does() -> None:
    labels = FACE.copy()
    labels[140:150, :60] = 1  # a strip of "skin" from the cheek to the picture's border
    labels[140:150, 60:110] = 1
    remove_islands(labels, POINTS)
    assert (labels[140:150, :15] == 0).all()
    assert (labels[140:150, 100:110] == 1).all()


def test_hair_clothes_and_neck_may_be_anywhere() -> None:
    labels = np.where(FACE == 0, 16, FACE).astype(np.uint8)
    labels[:20], labels[20:30] = 17, 14
    before = labels.copy()
    remove_islands(labels, POINTS)
    np.testing.assert_array_equal(labels, before)


def test_exact_labels_of_portraits_in_all_poses_lose_next_to_nothing() -> None:
    pairs = [(person, scene) for person in range(8) for scene in range(6)]
    drawn = draw(
        sample_people([person for person, _ in pairs], split="validation"),
        sample_scenes(pairs, split="validation"),
        128,
    )
    gone = all_of = 0
    for labels, landmarks in zip(np.asarray(drawn.labels), np.asarray(drawn.landmarks), strict=True):
        kept = labels.astype(np.uint8).copy()
        remove_islands(kept, landmarks.astype(np.float32))
        gone += int((kept != labels).sum())
        all_of += int(np.isin(labels, range(1, 14)).sum())
    assert gone / all_of < 0.002


@pytest.mark.slow
def test_the_nose_of_a_real_photo_is_on_the_face(real_analyzer: FaceAnalyzer) -> None:
    """A chandelier over this man's head had half of his nose."""
    photos = real_analyzer.detector._path.parent  # type: ignore[attr-defined]
    image = load_image(photos / "obama3.jpg")
    (face,) = real_analyzer.analyze(image)
    left, top, right, bottom = face.box
    raw = real_analyzer.parser.parse(image.crop((int(left) - 200, int(top) - 200, int(right) + 200, int(bottom) + 200)))
    y, x = np.nonzero(raw == 10)
    outside = (x < 200) | (y < 200) | (x > right - left + 200) | (y > bottom - top + 200)
    assert outside.mean() > 0.2, "the parser does place it there"
    y, x = np.nonzero(face.parsing == 10)
    assert len(x)
    assert ((x > left) & (x < right) & (y > top) & (y < bottom)).all()

"""Faces on their side and upside down are recognised as the upright ones are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hand_drawn import PALETTE, colour_parser, face_labels, landmarks_of, picture
from PIL import Image

from consistentid.errors import FaceError
from consistentid.faces.analyzer import FaceAnalyzer
from consistentid.faces.face import Detection
from consistentid.faces.portrait import portrait
from consistentid.faces.recognition import OnnxRecogniser
from consistentid.faces.sight import look
from consistentid.faces.upright import plausible, settled, turned, turned_face, turned_labels
from consistentid.files.images import load_image

FACE = (120.0, 110.0, 120.0)
ONE = face_labels(256, 256, FACE)  # four of it are larger than the picture


class KnowsUprightFaces:
    """Does with `face_labels` what real detectors do with faces: sees one within 45 degrees of upright, and takes
    another for an upright one, with eyes and mouth where they would be, and is less sure of it."""

    def detect(self, image: Image.Image) -> list[Detection]:
        apart = np.abs(np.asarray(image, int)[:, :, None] - PALETTE.astype(int)).sum(axis=3)
        labels = np.where(apart.min(axis=2) < 60, apart.argmin(axis=2), 0)
        points = {label: self._positions(labels == label) for label in (1, 4, 5, 10, 12)}
        if any(len(found) < 8 for found in points.values()):
            return []
        eyes, mouth = [points[label].mean() for label in (4, 5)], points[12]
        across = (eyes[1] - eyes[0]) / abs(eyes[1] - eyes[0])
        face = points[1]
        box = np.array([face.real.min(), face.imag.min(), face.real.max(), face.imag.max()], np.float32)
        if abs(np.angle(across)) < np.pi / 4:
            along = (mouth / across).real
            corners = [mouth[along.argmin()], mouth[along.argmax()]]
            found = np.array([*eyes, points[10].mean(), *corners])
            return [Detection(box, np.stack([found.real, found.imag], axis=1).astype(np.float32), 0.9)]
        size = float(max(box[2:] - box[:2]))
        return [Detection(box, landmarks_of(*((box[:2] + box[2:]) / 2), size), 0.6)]

    def detect_batch(self, images: Sequence[Image.Image]) -> list[list[Detection]]:
        return [self.detect(image) for image in images]

    @staticmethod
    def _positions(mask: np.ndarray) -> np.ndarray:
        y, x = np.nonzero(mask)
        return (x + 0.5) + 1j * (y + 0.5)


@pytest.fixture
def upright_only(recogniser_path: str) -> FaceAnalyzer:
    return FaceAnalyzer(KnowsUprightFaces(), OnnxRecogniser(recogniser_path), colour_parser(192))


@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
def test_turns_of_picture_labels_and_face_agree(quarters: int) -> None:
    image, size = picture(face_labels(300, 200, (110, 90, 100))), (300, 200)
    face = Detection(np.array([70, 40, 150, 140], np.float32), landmarks_of(110, 90, 100), 1.0)
    shown, there = turned(image, quarters), turned_face(face, quarters, size)
    labels = turned_labels(face_labels(300, 200, (110, 90, 100)), quarters)
    np.testing.assert_array_equal(np.asarray(shown), np.asarray(picture(labels)))
    x, y = there.landmarks[2].astype(int)
    assert labels[y, x] == 10, "the nose"
    assert there.tilt == pytest.approx((-90 * quarters + 180) % 360 - 180, abs=3) or abs(there.tilt) > 177
    assert there.quarters == -quarters % 4
    back = turned_face(there, -quarters, shown.size)
    np.testing.assert_allclose(back.landmarks, face.landmarks, atol=1e-3)
    np.testing.assert_allclose(back.box, face.box, atol=1e-3)


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_turned_drawing_gives_the_same_person_and_the_same_portrait(
    upright_only: FaceAnalyzer, quarters: int
) -> None:
    image = picture(ONE)
    assert upright_only.detect(turned(image, quarters))[0].tilt == pytest.approx(0, abs=3), "it is taken for upright"
    (before,) = look(upright_only, [image], same_person=0)
    (after,) = look(upright_only, [turned(image, quarters)], same_person=0)
    assert before.face.embedding @ after.face.embedding > 0.98
    np.testing.assert_array_equal(np.asarray(after.portrait), np.asarray(before.portrait))
    assert (after.there.parsing == before.there.parsing).mean() > 0.98
    assert any("tilted by" in warning for warning in after.face.warnings)
    assert before.face.warnings == ()


@pytest.mark.parametrize("angle", [60, 200, *(pytest.param(angle, marks=pytest.mark.slow) for angle in (120, 300))])
def test_a_drawing_turned_by_any_angle_gives_the_same_person(upright_only: FaceAnalyzer, angle: int) -> None:
    image = picture(ONE)
    (before,) = look(upright_only, [image], same_person=0)
    (after,) = look(upright_only, [image.rotate(angle, Image.Resampling.BICUBIC, expand=True)], same_person=0)
    assert before.face.embedding @ after.face.embedding > 0.95
    assert abs(after.there.tilt) <= 46


def test_where_no_face_is_found_the_picture_is_turned(upright_only: FaceAnalyzer) -> None:
    class Blind(KnowsUprightFaces):
        def detect(self, image: Image.Image) -> list[Detection]:
            return [face for face in super().detect(image) if face.score > 0.6]

    upright_only.detector = Blind()
    image = picture(ONE)
    assert upright_only.detector.detect(turned(image, 2)) == []
    (sight,) = look(upright_only, [turned(image, 2)], same_person=0)
    assert sight.face.embedding @ look(upright_only, [image], same_person=0)[0].face.embedding > 0.98


def test_landmarks_of_no_face_stay_where_nothing_better_is_found(upright_only: FaceAnalyzer) -> None:
    wrong = Detection(np.array([5, 5, 40, 40], np.float32), landmarks_of(20, 20, 30)[[3, 4, 2, 0, 1]], 0.9)
    assert not plausible(wrong)
    assert settled(picture(ONE), wrong, upright_only.detector) is wrong


def test_a_sure_upright_face_is_not_looked_at_again() -> None:
    class Never:
        def detect(self, image: Image.Image) -> list[Detection]:
            raise AssertionError

    face = Detection(np.array([70, 40, 150, 140], np.float32), landmarks_of(110, 90, 100), 0.8)
    assert settled(picture(ONE), face, Never()) is face


@pytest.mark.slow
@pytest.mark.parametrize("name", ["obama.jpg", "biden.jpg", "obama3.jpg"])
@pytest.mark.parametrize("angle", [60, 90, 135, 180, 270])
def test_turned_real_photos(real_analyzer: FaceAnalyzer, name: str, angle: int) -> None:
    """Landmarks of an upside-down face were placed as if it stood upright: the quality was 0.98, the person another."""
    photos = real_analyzer.detector._path.parent  # type: ignore[attr-defined]
    image = load_image(photos / name)
    image.thumbnail((800, 800))
    (face,) = real_analyzer.detect(image)
    shown = image.rotate(angle, expand=True)
    try:
        (sight,) = look(real_analyzer, [shown], same_person=-1)
    except FaceError:
        return  # said, not passed over
    turn = np.exp(-1j * np.radians(angle))
    where = (face.landmarks @ (1, 1j) - complex(*image.size) / 2) * turn + complex(*shown.size) / 2
    found = sight.face.landmarks @ (1, 1j)
    assert np.abs(found - where).mean() < 0.06 * face.side or sight.face.warnings
    assert np.abs(found - where).mean() < 0.15 * face.side
    assert abs(portrait(shown, sight.face)[1].tilt) <= 46

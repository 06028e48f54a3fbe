import dataclasses

import numpy as np
import pytest
from hand_drawn import Told, colour_parser, face_labels, landmarks_of, picture
from PIL import Image, ImageFilter

from consistentid.errors import InputError, NoFaceError, PhotographError, SeveralFacesError
from consistentid.faces.alignment import TEMPLATE
from consistentid.faces.analyzer import Detection, FaceAnalyzer, pick, quality

ONE = face_labels(256, 256, (120, 110, 120))
TWO = face_labels(256, 256, (65, 100, 100), (188, 100, 110))


def test_a_face_is_found_recognised_and_parsed(analyzer: FaceAnalyzer) -> None:
    (face,) = analyzer.analyze(picture(ONE))
    np.testing.assert_allclose(face.landmarks, landmarks_of(120, 110, 120), atol=1.5)
    assert face.embedding.shape == (512,)
    assert np.linalg.norm(face.embedding) == pytest.approx(1, abs=1e-5)
    assert face.parsing.dtype == np.uint8
    np.testing.assert_array_equal(face.parsing, ONE)
    assert 0 < face.quality <= 1


def test_the_same_face_elsewhere_has_the_same_embedding(analyzer: FaceAnalyzer) -> None:
    (here,) = analyzer.analyze(picture(ONE))
    (there,) = analyzer.analyze(picture(face_labels(256, 230, (140, 96, 120))))
    bearded = ONE.copy()
    bearded[120:][ONE[120:] == 1] = 17
    (other,) = analyzer.analyze(picture(bearded))
    assert here.embedding @ there.embedding > 0.98
    assert here.embedding @ other.embedding < here.embedding @ there.embedding - 0.02


def test_largest_first_and_each_with_its_own_parts(analyzer: FaceAnalyzer) -> None:
    large, small = analyzer.analyze(picture(TWO))
    np.testing.assert_allclose(large.landmarks[2], (188, 115.4), atol=2.5)
    np.testing.assert_allclose(small.landmarks[2], (65, 114), atol=2.5)
    right = np.broadcast_to(np.arange(256) >= 124, TWO.shape)
    for label in (1, 4, 5, 7, 8, 10, 12):
        for face, side in ((large, right), (small, ~right)):
            mine = face.parsing == label
            assert not (mine & ~side).any()
            assert mine.sum() == pytest.approx(((label == TWO) & side).sum(), rel=0.1, abs=3)


@pytest.mark.parametrize("place", [(800, 500), (20, 30), (1180, 780)])
def test_small_faces_in_large_pictures_are_parsed_up_close(analyzer: FaceAnalyzer, place: tuple[int, int]) -> None:
    labels = face_labels(1200, 800, (*place, 40))
    far = FaceAnalyzer(Told((*place, 40)), analyzer.recogniser, colour_parser(64))
    (face,) = far.analyze(picture(labels))
    assert face.parsing.shape == (800, 1200)
    left, top = max(0, place[0] - 30), max(0, place[1] - 30)
    near = np.s_[top : place[1] + 30, left : place[0] + 30]
    assert (face.parsing[near] == labels[near]).mean() > 0.85
    assert ((face.parsing == 10) & (labels == 10)).sum() > 0.6 * (labels == 10).sum()


def test_the_guard_is_asked_before_anything_else(analyzer: FaceAnalyzer) -> None:
    def no_photographs(image: Image.Image) -> None:
        if image.width > 100:
            raise PhotographError("a photograph")

    analyzer.guard = no_photographs
    with pytest.raises(PhotographError):
        analyzer.analyze(Image.new("RGB", (128, 128)))
    assert analyzer.analyze(Image.new("RGB", (64, 64))) == []


def test_pick_says_what_is_wrong_and_what_to_do(analyzer: FaceAnalyzer) -> None:
    two = analyzer.analyze(picture(TWO))
    with pytest.raises(NoFaceError, match=r"no face found in ada\.png; use a picture"):
        pick([], "ada.png")
    with pytest.raises(
        SeveralFacesError, match=r"2 faces found in ada\.png; choose one by its index.*0: centre \(188,"
    ):
        pick(two, "ada.png")
    with pytest.raises(InputError, match=r"no face 2 in ada\.png; its faces are numbered 0 to 1"):
        pick(two, "ada.png", 2)
    with pytest.raises(InputError, match="no face -1"):
        pick(two, "ada.png", -1)
    assert pick(two, "ada.png", 1) is two[1]
    assert pick(two[:1], "ada.png") is two[0]


def test_quality_falls_with_size_blur_and_turn() -> None:
    points = landmarks_of(150, 150, 200)
    face = Detection(np.array([70, 50, 230, 250], np.float32), points, 1.0)
    image = picture(face_labels(300, 300, (150, 150, 200)))
    best = quality(image, face)
    assert best > 0.8
    assert quality(image.filter(ImageFilter.GaussianBlur(8)), face) < 0.6 * best
    small = image.resize((60, 60), Image.Resampling.BOX)
    assert quality(small, Detection(face.box / 5, points / 5, 1.0)) < 0.6 * best
    turned = points.copy()
    turned[2, 0] += 30
    assert quality(image, dataclasses.replace(face, landmarks=turned)) < 0.4 * best
    assert quality(Image.new("RGB", (300, 300)), face) == pytest.approx(0.05, abs=0.01)


def test_quality_of_an_upside_down_face_is_that_of_the_upright_one() -> None:
    image = picture(face_labels(300, 300, (150, 150, 200)))
    box = np.array([70, 50, 230, 250], np.float32)
    points = landmarks_of(150, 150, 200)
    flipped = quality(image.rotate(180), Detection(box, (300 - points).astype(np.float32), 1.0))
    assert flipped == pytest.approx(quality(image, Detection(box, points, 1.0)), rel=0.05)


def test_template_is_a_frontal_face() -> None:
    image = Image.fromarray(np.random.RandomState(0).randint(0, 256, (112, 112, 3)).astype(np.uint8))
    assert quality(image, Detection(np.array([0, 0, 112, 112], np.float32), TEMPLATE, 1.0)) > 0.95

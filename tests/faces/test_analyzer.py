import numpy as np
import pytest
from hand_drawn import Told, colour_parser, face_labels, landmarks_of, picture
from PIL import Image

from consistentid.errors import PhotographError
from consistentid.faces.analyzer import FaceAnalyzer

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

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hand_drawn import KPS
from PIL import Image

from consistentid.errors import CheckpointError
from consistentid.faces.detection import OnnxDetector, insightface_networks, suppress

RED, BLUE = (255, 0, 0), (0, 0, 255)


def cells(
    width: int, height: int, side: int, *places: tuple[int, int], colour: tuple[int, int, int] = RED
) -> Image.Image:
    """A black picture with squares of that side at these multiples of it."""
    canvas = np.zeros((height, width, 3), np.uint8)
    for x, y in places:
        canvas[y * side : (y + 1) * side, x * side : (x + 1) * side] = colour
    return Image.fromarray(canvas)


def test_box_and_landmarks_are_decoded_once_a_face(detector_path: Callable[..., Path]) -> None:
    (face,) = OnnxDetector(detector_path()).detect(cells(640, 640, 8, (20, 30)))
    corner = np.array([20 * 8 + 0.5, 30 * 8 + 0.5])
    np.testing.assert_allclose(face.box, [*(corner - 24), *(corner + 24)], atol=1e-3)
    np.testing.assert_allclose(face.landmarks, corner + KPS * 8, atol=1e-3)
    assert face.score == pytest.approx(1, abs=0.01)


def test_coordinates_are_those_of_the_given_picture(detector_path: Callable[..., Path]) -> None:
    (face,) = OnnxDetector(detector_path()).detect(cells(1280, 320, 16, (50, 10)))
    np.testing.assert_allclose(face.landmarks[2], [50 * 16 + 1, 10 * 16 + 1], atol=1e-3)
    np.testing.assert_allclose(face.landmarks[4] - face.landmarks[0], [32, 32], atol=1e-3)


def test_all_faces_are_found(detector_path: Callable[..., Path]) -> None:
    found = OnnxDetector(detector_path()).detect(cells(640, 640, 8, (10, 10), (40, 10), (20, 60)))
    centres = sorted(tuple(face.landmarks[2].round().tolist()) for face in found)
    assert centres == [(80, 80), (160, 480), (320, 80)]


def test_colour_order_is_rgb(detector_path: Callable[..., Path]) -> None:
    assert OnnxDetector(detector_path()).detect(cells(640, 640, 8, (20, 30), colour=BLUE)) == []


def test_small_faces_are_found_at_a_larger_size(detector_path: Callable[..., Path]) -> None:
    image = cells(2560, 1280, 16, (100, 20))  # 4 of 8 pixels at 640
    found = OnnxDetector(detector_path()).detect(image)
    np.testing.assert_allclose(found[0].landmarks[2], [1601, 321], atol=1e-3)
    assert OnnxDetector(detector_path(640)).detect(image) == []


@pytest.mark.parametrize("size", ["size", 640])
def test_faces_that_fill_the_picture_are_found_in_a_frame(detector_path: Callable[..., Path], size: int | str) -> None:
    found = OnnxDetector(detector_path(size)).detect(Image.new("RGB", (320, 320), RED))
    corners = np.array([face.landmarks[2] for face in found])
    for corner in ((0.5, 0.5), (312.5, 0.5), (0.5, 312.5), (312.5, 312.5)):
        assert np.abs(corners - corner).max(axis=1).min() <= 8  # the corner's cell or its neighbour, equally red
    boxes = np.array([face.box for face in found])
    assert boxes.min() >= 0
    assert boxes.max() <= 320


def test_nothing_is_nothing(detector_path: Callable[..., Path]) -> None:
    assert OnnxDetector(detector_path()).detect(Image.new("RGB", (300, 200))) == []


def test_suppression_keeps_the_best_of_each_place() -> None:
    boxes = np.array([(0, 0, 10, 10), (1, 0, 11, 10), (100, 0, 110, 10), (0, 0, 10, 30)], np.float32)
    assert suppress(boxes, np.array([0.6, 0.9, 0.7, 0.8], np.float32)) == [1, 3, 2]
    assert suppress(boxes[:0], np.zeros(0, np.float32)) == []


def test_networks_of_another_kind_are_refused(detector_path: Callable[..., Path], recogniser_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"recogniser\.onnx is not a face detector"):
        OnnxDetector(recogniser_path)
    with pytest.raises(CheckpointError, match="6 outputs"):
        OnnxDetector(detector_path(outputs=6))


def test_insightface_packs_run_through_the_same_code(detector_path: Callable[..., Path], recogniser_path: Path) -> None:
    FaceAnalysis = pytest.importorskip("insightface.app", exc_type=ImportError).FaceAnalysis
    pack = detector_path().parent
    (pack / "recogniser.onnx").write_bytes(recogniser_path.read_bytes())
    detector, recogniser = insightface_networks(str(pack))
    photo = cells(640, 640, 8, (20, 30), (50, 12))
    ours = sorted(detector.detect(photo), key=lambda face: face.score)
    theirs = FaceAnalysis(name=str(pack), allowed_modules=["detection", "recognition"])
    theirs.prepare(ctx_id=-1, det_size=(640, 640))
    bgr = np.ascontiguousarray(np.asarray(photo)[..., ::-1])
    expected = sorted(theirs.get(bgr), key=lambda face: face.det_score)
    assert len(ours) == len(expected) == 2
    for mine, other in zip(ours, expected, strict=True):
        np.testing.assert_allclose(mine.box, other.bbox + 0.5, atol=1e-3)  # theirs count from a pixel's centre
        np.testing.assert_allclose(mine.landmarks, other.kps + 0.5, atol=1e-3)
        assert recogniser.embed(photo, mine.landmarks) @ other.normed_embedding > 0.999

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hand_drawn import KPS, save_onnx
from onnx import helper
from PIL import Image

from consistentid.errors import CheckpointError
from consistentid.faces.detection import OnnxDetector, suppress
from consistentid.faces.recognition import OnnxRecogniser

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


def test_networks_do_what_they_do_in_insightface(detector_path: Callable[..., Path], recogniser_path: Path) -> None:
    FaceAnalysis = pytest.importorskip("insightface.app", exc_type=ImportError).FaceAnalysis
    pack = detector_path().parent
    (pack / "recogniser.onnx").write_bytes(recogniser_path.read_bytes())
    detector, recogniser = OnnxDetector(detector_path()), OnnxRecogniser(recogniser_path)
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


# --------------------------------------------------------------------------------------------------------------- YuNet


def yunet(path: Path, size: int | str = "size") -> Path:
    """YuNet's outputs: a face in each red cell of 8 pixels, two cells to the right and one down from its corner.

    Its box is four cells wide and six high, landmarks lie at `KPS` cells from the cell's corner.
    """
    nodes, shapes = [], {"input": [1, 3, size, size]}
    for stride in (8, 16, 32):
        cell = {"kernel_shape": [stride] * 2, "strides": [stride] * 2}
        nodes += [
            helper.make_node("Conv", ["input", "red"], [f"r{stride}"]),
            helper.make_node("AveragePool", [f"r{stride}"], [f"p{stride}"], **cell),
            helper.make_node("Mul", [f"p{stride}", "one" if stride == 8 else "zero"], [f"m{stride}"]),
            helper.make_node("Reshape", [f"m{stride}", "column"], [f"cls_{stride}"]),
            helper.make_node("Mul", [f"cls_{stride}", "zero"], [f"nothing{stride}"]),
            helper.make_node("Add", [f"nothing{stride}", "sure"], [f"obj_{stride}"]),
            helper.make_node("Add", [f"nothing{stride}", "box"], [f"bbox_{stride}"]),
            helper.make_node("Add", [f"nothing{stride}", "points"], [f"kps_{stride}"]),
        ]
    for kind, width in (("cls", 1), ("obj", 1), ("bbox", 4), ("kps", 10)):
        shapes |= {f"{kind}_{stride}": [1, f"n{stride}", width] for stride in (8, 16, 32)}
    constants = {
        "red": np.array([-1, 0, 1], np.float32).reshape(1, 3, 1, 1) / 255,  # of B, G, R
        "one": np.array(1, np.float32),
        "zero": np.array(0, np.float32),
        "column": np.array([1, -1, 1], np.int64),
        "sure": np.full((1, 1, 1), 0.81, np.float32),
        "box": np.array([2, 1, np.log(4), np.log(6)], np.float32).reshape(1, 1, 4),
        "points": KPS.reshape(1, 1, 10),
    }
    return save_onnx(path, nodes, constants, shapes)


@pytest.mark.parametrize("size", ["size", 640])
def test_yunet_is_decoded_in_the_pixels_of_the_picture(tmp_path: Path, size: int | str) -> None:
    detector = OnnxDetector(yunet(tmp_path / "yunet.onnx", size))
    (face,) = detector.detect(cells(640, 640, 8, (20, 30)))
    corner = np.array([20 * 8, 30 * 8])
    np.testing.assert_allclose(face.box, np.add(np.tile(corner, 2), (0, -16, 32, 32)), atol=1e-3)
    np.testing.assert_allclose(face.landmarks, corner + KPS * 8, atol=1e-3)
    assert face.score == pytest.approx(0.9, abs=0.01), "the root of 1 and 0.81"
    (far,) = detector.detect(cells(1280, 320, 16, (50, 10)))
    np.testing.assert_allclose(far.landmarks[4] - far.landmarks[0], [32, 32], atol=1e-3)
    assert detector.detect(cells(640, 640, 8, (20, 30), colour=BLUE)) == []


def test_yunet_finds_what_opencv_finds_with_it(tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    photo = cells(640, 640, 8, (20, 30), (50, 12))
    path = yunet(tmp_path / "yunet.onnx", 640)
    theirs = cv2.FaceDetectorYN.create(str(path), "", (640, 640), 0.5, 0.3, 100)
    _, rows = theirs.detect(np.ascontiguousarray(np.asarray(photo)[..., ::-1]))
    ours = OnnxDetector(path).detect(photo)
    assert rows is not None
    assert len(ours) == len(rows) == 2
    for mine, row in zip(
        sorted(ours, key=lambda face: face.box[0]), sorted(rows.tolist(), key=lambda row: row[0]), strict=True
    ):
        left, top, width, height, *points, score = row
        np.testing.assert_allclose(mine.box, [left, top, left + width, top + height], atol=0.01)
        np.testing.assert_allclose(mine.landmarks.ravel(), points, atol=0.01)
        assert mine.score == pytest.approx(score, abs=1e-3)


def test_mtcnn_is_refused_in_words(detector_path: Callable[..., Path]) -> None:
    with pytest.raises(CheckpointError, match=r"3 outputs.*MTCNN is a cascade of three such networks, and not"):
        OnnxDetector(detector_path(outputs=3))

"""What the adapter sees of a photo: the face, whole, in the middle of a square, and nobody else's."""

from __future__ import annotations

import numpy as np
import pytest
from hand_drawn import PALETTE, Told, colour_parser, face_labels, picture
from numpy.typing import NDArray
from PIL import Image
from transformers import CLIPImageProcessorPil

from consistentid.faces.analyzer import FaceAnalyzer
from consistentid.faces.crop import cut
from consistentid.faces.face import Detection, Face
from consistentid.faces.parts import PARTS, part_pictures
from consistentid.faces.portrait import moved, portrait, square_round
from consistentid.files.images import load_image


def detection(*box: float) -> Detection:
    return Detection(np.array(box, np.float32), np.zeros((5, 2), np.float32), 1.0)


def lost(shown: Image.Image, face: Detection) -> float:
    """Share of the face's box that CLIP's centre crop takes away."""
    side = min(shown.size)
    corner = np.array([(length - side) / 2 for length in shown.size])
    low = np.maximum(face.box[:2], corner)
    high = np.minimum(face.box[2:], corner + side)
    return 1 - float(np.prod((high - low).clip(0))) / face.area


@pytest.mark.parametrize(
    ("box", "size"),
    [((40, 30, 60, 58), (400, 300)), ((0, 0, 20, 20), (90, 50)), ((300, 200, 390, 299), (400, 300))],
)
def test_the_square_is_in_the_picture_and_the_face_in_it(box: tuple[int, ...], size: tuple[int, int]) -> None:
    left, top, right, bottom = square_round(detection(*box), size)
    assert right - left == bottom - top == min(4 * max(box[2] - box[0], box[3] - box[1]), *size)
    assert 0 <= left <= box[0]
    assert 0 <= top <= box[1]
    assert box[2] <= right <= size[0]
    assert box[3] <= bottom <= size[1]


def test_a_face_that_fits_no_square_of_the_picture_is_whole_all_the_same() -> None:
    """A tight crop of 60x100 pixels whose face is 90 high: the square reaches over the borders, edges drawn out."""
    image = Image.fromarray(np.random.RandomState(0).randint(0, 256, (100, 60, 3)).astype(np.uint8))
    face = detection(5, 6, 55, 96)
    box = square_round(face, image.size)
    assert box == (-15, 6, 75, 96)
    pixels = np.asarray(cut(image, box))
    np.testing.assert_array_equal(pixels[:, 15:75], np.asarray(image)[6:96])
    assert (pixels[:, :15] == np.asarray(image)[6:96, :1]).all()
    assert (pixels[:, 75:] == np.asarray(image)[6:96, -1:]).all()
    np.testing.assert_array_equal(moved(face, box).box, (20, 0, 70, 90))


def analyzed(analyzer: FaceAnalyzer, labels: NDArray[np.uint8], *faces: tuple[float, float, float]) -> list[Face]:
    told = FaceAnalyzer(Told(*faces), analyzer.recogniser, colour_parser(max(labels.shape)))
    return told.analyze(picture(labels))


@pytest.mark.parametrize(
    ("size", "face"),
    [
        ((200, 800), (100, 130, 90)),
        ((900, 200), (700, 100, 80)),
        ((300, 400), (150, 90, 60)),
        ((500, 500), (60, 60, 40)),
    ],
)
def test_clip_sees_the_face_wherever_it_is(
    analyzer: FaceAnalyzer, size: tuple[int, int], face: tuple[float, float, float]
) -> None:
    labels = face_labels(*size, face)
    (found,) = analyzed(analyzer, labels, face)
    shown, there = portrait(picture(labels), found)
    assert shown.width == shown.height == min(4 * face[2], *size)
    assert there.parsing.shape == shown.size
    assert lost(shown, there) == 0
    parts = part_pictures(shown, there.parsing, "canvas")
    assert tuple(parts) == PARTS
    processor = CLIPImageProcessorPil()
    for name, part in parts.items():
        pixels = processor(images=part, do_normalize=False, return_tensors="pt")["pixel_values"]
        assert (pixels.amax(1) > 0.03).sum() >= 10, f"{name} arrives black"
    # what the labels say of the portrait is what it shows
    nose = np.asarray(shown)[there.parsing == 10]
    assert (np.abs(nose.astype(int) - PALETTE[10]).max(axis=1) == 0).mean() > 0.9


def test_square_pictures_with_the_face_in_their_middle_stay_as_they_are(analyzer: FaceAnalyzer) -> None:
    labels = face_labels(240, 240, (120, 110, 50))
    (face,) = analyzed(analyzer, labels, (120, 110, 50))
    image = picture(labels)
    shown, there = portrait(image, face)
    np.testing.assert_array_equal(np.asarray(shown), np.asarray(image))
    np.testing.assert_array_equal(there.parsing, face.parsing)
    np.testing.assert_array_equal(there.box, face.box)


def test_two_people_give_two_portraits_without_each_other(analyzer: FaceAnalyzer) -> None:
    people = ((70, 80, 60), (150, 84, 56))
    labels = face_labels(300, 160, *people)
    image, faces = picture(labels), analyzed(analyzer, labels, *people)
    shown = [portrait(image, face, faces) for face in faces]
    assert not np.array_equal(np.asarray(shown[0][0]), np.asarray(shown[1][0]))
    for (alone, there), face, other in zip(shown, faces, reversed(faces), strict=True):
        x, y = (np.array(other.centre) - face.box[:2] + there.box[:2]).astype(int)
        assert 0 <= x < alone.width, "the other is in the square"
        assert (np.asarray(alone)[y - 20 : y + 20, x - 10 : x + 10] == 0).all()
        inside = np.asarray(alone)[int(there.box[1]) : int(there.box[3]), int(there.box[0]) : int(there.box[2])]
        assert (inside.max(axis=2) == 0).mean() < 0.02, "nothing of the person's own face is hidden"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["obama.jpg", "biden.jpg", "obama3.jpg", "two_people.jpg"])
def test_real_photos(real_analyzer: FaceAnalyzer, name: str) -> None:
    """Before, CLIP's centre crop took all of the face of one of these four, and the eyes of another."""
    photos = real_analyzer.detector._path.parent  # type: ignore[attr-defined]
    image = load_image(photos / name)
    faces = real_analyzer.analyze(image)
    assert len(faces) == (2 if name == "two_people.jpg" else 1)
    for face in faces:
        shown, there = portrait(image, face, faces)
        assert lost(shown, there) == 0
        assert there.side >= shown.width / 4 - 1
        assert {"face", "nose"} <= set(part_pictures(shown, there.parsing, "canvas"))

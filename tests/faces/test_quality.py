"""How well a face can be seen, and what is said of one that cannot."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
from hand_drawn import face_labels, landmarks_of, picture
from PIL import Image, ImageEnhance, ImageFilter

from consistentid.faces.alignment import TEMPLATE
from consistentid.faces.analyzer import FaceAnalyzer
from consistentid.faces.face import Detection
from consistentid.faces.quality import assess, quality
from consistentid.files.images import load_image

ASTRONAUT = Detection(
    np.array([181, 56, 271, 179], np.float32),
    np.array([(208.5, 109), (247, 111), (230.5, 133), (209, 149), (244, 150.5)], np.float32),
    0.82,
)
"""The face of scikit-image's astronaut."""

Change = Callable[[Image.Image, Detection], tuple[Image.Image, Detection]]


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
    assert quality(Image.new("RGB", (300, 300)), face) < 0.01


def test_quality_of_an_upside_down_face_is_that_of_the_upright_one() -> None:
    image = picture(face_labels(300, 300, (150, 150, 200)))
    box = np.array([70, 50, 230, 250], np.float32)
    points = landmarks_of(150, 150, 200)
    flipped = quality(image.rotate(180), Detection(box, (300 - points).astype(np.float32), 1.0))
    assert flipped == pytest.approx(quality(image, Detection(box, points, 1.0)), rel=0.05)


def test_template_is_a_frontal_face() -> None:
    image = Image.fromarray(np.random.RandomState(0).randint(0, 256, (112, 112, 3)).astype(np.uint8))
    assert quality(image, Detection(np.array([0, 0, 112, 112], np.float32), TEMPLATE, 1.0)) > 0.95


def scaled(x: float, y: float) -> Change:
    def change(image: Image.Image, face: Detection) -> tuple[Image.Image, Detection]:
        size = (round(image.width * x), round(image.height * y))
        by = np.array(size, np.float32) / image.size
        moved = dataclasses.replace(face, box=face.box * np.tile(by, 2), landmarks=face.landmarks * by)
        return image.resize(size, Image.Resampling.LANCZOS), moved

    return change


def bright(gain: float) -> Change:
    return lambda image, face: (ImageEnhance.Brightness(image).enhance(gain), face)


def blurred(share: float) -> Change:
    return lambda image, face: (image.filter(ImageFilter.GaussianBlur(share * face.side)), face)


def cropped(image: Image.Image, face: Detection) -> tuple[Image.Image, Detection]:
    return image.crop((0, 0, int(face.centre[0]), image.height)), face


FAULTS: dict[str, Change] = {
    "pixels": scaled(0.2, 0.2),
    "blurred": blurred(0.03),
    "over-exposed": bright(3),
    "under-exposed": bright(0.06),
    "stretched sideways": scaled(1.7, 1),
    "stretched upwards": scaled(0.6, 1),
    "cut off": cropped,
}


def check_faults(image: Image.Image, face: Detection) -> None:
    """Of the picture as it is nothing is said; of each fault its name, and the quality falls."""
    best = assess(image, face)
    assert best.warnings == ()
    assert best.refusal == ""
    for fault, change in FAULTS.items():
        seen = assess(*change(image, face))
        assert any(fault in warning for warning in seen.warnings), f"{fault}: {seen}"
        assert seen.value < 0.7 * best.value, fault
    turned = face.landmarks.copy()
    turned[2] = turned[1] - (2, -15)
    assert "turned away" in assess(image, dataclasses.replace(face, landmarks=turned)).warnings


def test_each_fault_is_named() -> None:
    check_faults(Image.fromarray(pytest.importorskip("skimage.data").astronaut()), ASTRONAUT)


@pytest.mark.parametrize("name", ["obama.jpg", "obama3.jpg"])
def test_each_fault_is_named_on_real_photos(real_analyzer: FaceAnalyzer, name: str) -> None:
    photos = real_analyzer.detector._path.parent  # type: ignore[attr-defined]
    image = load_image(photos / name)
    (face,) = real_analyzer.detect(image)
    scale = 160 / face.side
    check_faults(*scaled(scale, scale)(image, face))


def test_what_is_no_face_is_refused() -> None:
    image = Image.fromarray(np.random.RandomState(0).randint(0, 256, (300, 300, 3)).astype(np.uint8))
    box = np.array([70, 50, 230, 250], np.float32)
    line = np.array([(80, 100), (120, 100), (160, 101), (200, 100), (240, 100)], np.float32)
    upside_down = landmarks_of(150, 150, 200)[[3, 4, 2, 0, 1]]
    for points in (line, upside_down, np.full((5, 2), 100, np.float32)):
        assert "do not lie as on a face" in assess(image, Detection(box, points, 0.9)).refusal
    assert assess(image, Detection(box, landmarks_of(150, 150, 200), 0.9)).refusal == ""


def test_hardly_anything_of_a_face_is_refused_with_all_that_is_wrong() -> None:
    image, face = picture(face_labels(300, 300, (150, 150, 200))), landmarks_of(150, 150, 200)
    dark = ImageEnhance.Brightness(image.filter(ImageFilter.GaussianBlur(20))).enhance(0.02)
    known = Detection(np.array([70, 50, 230, 250], np.float32), face, 0.9)
    refusal = assess(*scaled(0.15, 0.15)(dark, known)).refusal
    assert refusal.startswith("quality 0.00")
    assert "blurred" in refusal
    assert "under-exposed" in refusal

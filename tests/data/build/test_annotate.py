"""The steps on hand-drawn label maps, which a parser of colours reads without error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hand_drawn import PALETTE, colour_parser, face_labels, landmarks_of, picture
from PIL import Image

from consistentid.data.build.annotate import PLAIN_CAPTION, REASONS, Annotator, Outcome, Portrait, Rejection
from consistentid.faces.analyzer import FaceAnalyzer
from consistentid.faces.caption import Caption
from consistentid.faces.from_labels import LabelDetector
from consistentid.faces.recognition import OnnxRecogniser
from consistentid.presets.read import load_preset


@pytest.fixture(scope="module")
def annotator() -> Annotator:
    parser = colour_parser(400)  # so that the raw pictures are read without resampling
    recogniser = OnnxRecogniser(load_preset("drawn").recogniser.fetch())
    return Annotator(FaceAnalyzer(LabelDetector(parser, side=400), recogniser, parser), size=128)


def outcome(
    annotator: Annotator, folder: Path, *faces: tuple[float, float, float], words: Caption | None = None
) -> Outcome:
    picture(face_labels(400, 300, *faces)).save(folder / "raw.png")
    [result] = annotator([folder / "raw.png"], [words])
    return result


def test_picture_and_labels_are_cut_alike(annotator: Annotator, tmp_path: Path) -> None:
    face = (250.0, 110.0, 50.0)
    made = outcome(annotator, tmp_path, face)
    assert isinstance(made, Portrait)
    pixels = np.asarray(made.picture)
    assert pixels.shape == (128, 128, 3)
    colours = PALETTE[made.labels].astype(int)
    assert (np.abs(colours - pixels).max(axis=2) < 40).mean() > 0.9  # all but the soft edges
    assert made.parts == ("face", "eyes", "ears", "nose", "mouth")
    # From where the landmarks were to where they are: a scale and a shift, the same in both directions.
    true = landmarks_of(*face)
    scale = np.ptp(made.landmarks, axis=0) / np.ptp(true, axis=0)
    np.testing.assert_allclose(scale, scale.mean(), rtol=0.12)
    assert scale.mean() == pytest.approx(128 / (4 * 50), rel=0.1)
    assert made.labels[tuple(made.landmarks[2].astype(int)[::-1])] == 10
    assert made.face_size == pytest.approx(50, abs=4)
    assert np.linalg.norm(made.embedding) == pytest.approx(1, abs=1e-5)


def test_bystanders_become_background(annotator: Annotator, tmp_path: Path) -> None:
    alone, both = (
        outcome(annotator, tmp_path, *faces) for faces in (((250, 110, 60),), ((250, 110, 60), (160, 60, 36)))
    )
    assert isinstance(alone, Portrait)
    assert isinstance(both, Portrait)
    assert (np.asarray(alone.picture) != np.asarray(both.picture)).any()
    assert (alone.labels == 10).sum() > 0
    assert abs(int((both.labels == 10).sum()) - int((alone.labels == 10).sum())) <= 2
    assert (both.labels != alone.labels).mean() < 0.02


def test_words_are_kept_and_completed(annotator: Annotator, tmp_path: Path) -> None:
    face = (250.0, 110.0, 60.0)
    told, plain = (
        outcome(annotator, tmp_path, face, words=words) for words in (Caption("a king", "He has a long nose"), None)
    )
    assert isinstance(told, Portrait)
    assert isinstance(plain, Portrait)
    rest = "The person has one face, two eyes, two ears, and one mouth."
    assert told.caption == Caption("a king", f"He has a long nose. {rest}")
    assert plain.caption == Caption(
        PLAIN_CAPTION, "The person has one face, two eyes, two ears, one nose, and one mouth."
    )


def test_a_captioner_is_asked_about_the_cut_pictures(annotator: Annotator, tmp_path: Path) -> None:
    seen: list[Image.Image] = []

    class Sees:
        def describe(self, images: list[Image.Image]) -> list[Caption]:
            seen.extend(images)
            return [Caption("seen", "A face with eyes, ears, a nose and a mouth.") for _ in images]

    asked = Annotator(annotator.analyzer, 128, Sees())  # type: ignore[arg-type]
    made = outcome(asked, tmp_path, (250, 110, 60), words=Caption("known", ""))
    assert isinstance(made, Portrait)
    assert made.caption == Caption("seen", "A face with eyes, ears, a nose and a mouth.")
    assert [image.size for image in seen] == [(128, 128)]
    assert isinstance(outcome(asked, tmp_path), Rejection)
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("faces", "code"),
    [
        ((), "no face"),
        (((120, 110, 60), (280, 110, 56)), "several people"),
    ],
)
def test_what_is_not_clear_is_rejected(
    annotator: Annotator, tmp_path: Path, faces: tuple[tuple[float, float, float], ...], code: str
) -> None:
    made = outcome(annotator, tmp_path, *faces)
    assert isinstance(made, Rejection)
    assert made.code == code
    assert code in REASONS


def test_a_face_of_few_pixels_is_rejected(annotator: Annotator, tmp_path: Path) -> None:
    large = Annotator(annotator.analyzer, size=1024)
    made = outcome(large, tmp_path, (250, 110, 50))
    assert isinstance(made, Rejection)
    assert made.code == "small face"
    assert made.reason.endswith("pixels, less than 64; use a closer picture")

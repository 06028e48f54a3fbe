"""A person's photos looked at, before anything is encoded."""

from __future__ import annotations

import numpy as np
import pytest
from hand_drawn import Told, face_labels, picture
from PIL import Image

from consistentid.errors import FaceError, InputError, NoFaceError, SeveralFacesError
from consistentid.faces.analyzer import FaceAnalyzer
from consistentid.faces.sight import look
from consistentid.files.images import load_image

ADA = (65.0, 100.0, 100.0)
BOB = (188.0, 110.0, 130.0)


def bearded(labels: np.ndarray, x: float) -> np.ndarray:
    """The face in the middle of which is x with a beard: another person."""
    labels = labels.copy()
    rows, columns = np.mgrid[: labels.shape[0], : labels.shape[1]]
    labels[(rows > 125) & (np.abs(columns - x) < 50) & (labels == 1)] = 17
    return labels


@pytest.fixture
def alone() -> Image.Image:
    return picture(face_labels(256, 256, (120, 110, 100)))


@pytest.fixture
def couple() -> Image.Image:
    """Bob, bearded, is the larger."""
    return picture(bearded(face_labels(256, 256, ADA, BOB), BOB[0]))


@pytest.fixture
def same_person(analyzer: FaceAnalyzer, alone: Image.Image, couple: Image.Image) -> float:
    (ada,) = analyzer.analyze(alone)
    bob, ada_too = analyzer.analyze(couple)
    assert ada.embedding @ ada_too.embedding > ada.embedding @ bob.embedding
    return float(ada.embedding @ ada_too.embedding + ada.embedding @ bob.embedding) / 2


def test_the_face_that_is_on_the_other_photo_is_chosen(
    analyzer: FaceAnalyzer, alone: Image.Image, couple: Image.Image, same_person: float
) -> None:
    with pytest.raises(SeveralFacesError, match="2 faces found in picture 1"):
        look(analyzer, [couple], same_person=same_person)
    first, second = look(analyzer, [couple, alone], same_person=same_person)
    assert (first.index, second.index) == (1, 0)
    assert first.face.centre[0] == pytest.approx(ADA[0], abs=3)
    assert first.face.embedding @ second.face.embedding > same_person


def test_a_chosen_index_counts_for_its_photo_alone(
    analyzer: FaceAnalyzer, alone: Image.Image, couple: Image.Image
) -> None:
    first, second = look(analyzer, [alone, couple], face_index=[None, 0], same_person=-1)
    assert (first.index, second.index) == (0, 0)
    with pytest.raises(InputError, match=r"no face 5 in pair\.png"):
        look(analyzer, [couple], names=["pair.png"], face_index=5, same_person=-1)


def test_bad_photos_are_an_error_or_left_out_by_name(
    analyzer: FaceAnalyzer, alone: Image.Image, couple: Image.Image, same_person: float
) -> None:
    empty = Image.new("RGB", (64, 64))
    stranger = picture(bearded(face_labels(256, 256, (120, 110, 100)), 120))
    photos, names = [alone, empty, alone.transpose(Image.Transpose.FLIP_LEFT_RIGHT), stranger], ["a", "b", "c", "d"]
    with pytest.raises(NoFaceError, match="no face found in b"):
        look(analyzer, photos, names=names, same_person=same_person)
    with pytest.warns(UserWarning, match="left out") as told:
        sights = look(analyzer, photos, names=names, same_person=same_person, skip_bad=True)
    assert [sight.name for sight in sights] == ["a", "c"]
    assert [str(one.message).split(";")[0] for one in told] == [
        "left out: no face found in b",
        "left out: d: not of the person on the other pictures",
    ]
    with pytest.warns(UserWarning, match="left out"), pytest.raises(NoFaceError, match="no face found in b"):
        look(analyzer, [empty], names=["b"], same_person=0, skip_bad=True)


def test_a_face_that_is_no_use_is_refused(analyzer: FaceAnalyzer) -> None:
    dark = picture(face_labels(64, 64, (32, 28, 24))).point(lambda value: value // 100)
    seen = FaceAnalyzer(Told((32, 28, 24)), analyzer.recogniser, analyzer.parser)
    with pytest.raises(FaceError, match=r"^dark\.png: the face cannot be used: quality 0\.00.*under-exposed"):
        look(seen, [dark], names=["dark.png"], same_person=0)


@pytest.mark.slow
def test_two_real_people_each_on_another_photo(real_analyzer: FaceAnalyzer) -> None:
    """Each of the two is the one who is on the other photo, which differs per recogniser: here told by index."""
    photos = real_analyzer.detector._path.parent  # type: ignore[attr-defined]
    pair = load_image(photos / "two_people.jpg")
    sights = [look(real_analyzer, [pair], face_index=index, same_person=-1)[0] for index in (0, 1)]
    assert sights[0].index != sights[1].index
    assert not np.array_equal(np.asarray(sights[0].portrait), np.asarray(sights[1].portrait))
    with pytest.raises(SeveralFacesError, match="2 faces found in picture 1; choose one"):
        look(real_analyzer, [pair], same_person=-1)

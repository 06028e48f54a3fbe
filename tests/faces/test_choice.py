"""Which face is meant: the large one, the one that was named, the one that is on the other photos."""

from __future__ import annotations

import numpy as np
import pytest
from hand_drawn import face_labels, picture

from consistentid.errors import InputError, NoFaceError, SeveralFacesError
from consistentid.faces.analyzer import FaceAnalyzer
from consistentid.faces.choice import most_alike, pick, rivals
from consistentid.faces.face import Detection

TWO = face_labels(256, 256, (65, 100, 100), (188, 100, 110))


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


def square(x: float, side: float) -> Detection:
    return Detection(np.array([x, 0, x + side, side], np.float32), np.zeros((5, 2), np.float32), 1.0)


def test_bystanders_are_passed_over() -> None:
    faces = [square(0, 100), square(200, 60), square(300, 20)]
    assert rivals(faces) == faces[:1]
    assert pick(faces, "ada.jpg") is faces[0]
    assert pick(faces, "ada.jpg", 2) is faces[2]
    near = [square(0, 100), square(200, 80), square(300, 20)]
    with pytest.raises(SeveralFacesError, match=r"^2 faces found in a\.jpg beside 1 smaller ones; .* as in a\.jpg#0"):
        pick(near, "a.jpg")


def test_an_error_never_lists_a_crowd() -> None:
    with pytest.raises(SeveralFacesError) as error:
        pick([square(50 * x, 100) for x in range(150)], "crowd.jpg")
    assert "150 faces" in str(error.value)
    assert "and 144 more" in str(error.value)
    assert len(str(error.value)) < 400


def at(*angles: float) -> np.ndarray:
    return np.array([(np.cos(angle), np.sin(angle)) for angle in angles], np.float32)


def test_the_face_that_is_on_the_other_photos_too() -> None:
    ada, bob, cid = 0.0, 1.5, 3.0
    assert most_alike([at(ada), at(bob, ada + 0.1), at(cid, bob, ada - 0.1)], 0.9) == [0, 1, 2]
    assert most_alike([at(ada, bob), at(cid, ada)], 0.9) == [0, 1], "no photo says alone who is meant"
    assert most_alike([at(ada, bob), at(bob, ada)], 0.9) == [None, None], "a couple: either may be meant"
    assert most_alike([at(ada), at(bob, cid)], 0.9) == [0, None], "on one of them is nobody who is on the other"
    assert most_alike([at(ada, bob)], 0.9) == [None]

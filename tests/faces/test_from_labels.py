import numpy as np
import pytest
from hand_drawn import colour_parser, ellipse, face_labels, landmarks_of, picture
from PIL import Image

from consistentid.drawn.portraits import draw, sample_people, sample_scenes
from consistentid.faces.from_labels import LabelDetector, faces_in_labels
from consistentid.faces.parsing import FaceParser

FACE = (60.0, 60.0, 70.0)
LABELS = face_labels(128, 128, FACE)


def only(labels: np.ndarray):
    (face,) = faces_in_labels(labels)
    return face


def test_box_and_landmarks_of_a_plain_face() -> None:
    face = only(LABELS)
    np.testing.assert_allclose(face.landmarks, landmarks_of(*FACE), atol=1.5)
    np.testing.assert_allclose(face.box, [60 - 28, 60 - 35, 60 + 28, 60 + 35], atol=2)
    assert face.score == 1


@pytest.mark.parametrize("turns", [0, 1, 3])
def test_turned_heads_keep_their_order_as_seen(turns: int) -> None:
    tilted = np.asarray(Image.fromarray(LABELS).rotate(25 * (turns - 1), center=(60, 60)))
    angle = np.deg2rad(-25 * (turns - 1))
    z = (landmarks_of(*FACE) - 60) @ (1, 1j) * np.exp(1j * angle) + complex(60, 60)
    np.testing.assert_allclose(only(tilted).landmarks, np.stack([z.real, z.imag], 1), atol=2)


def test_pixels_are_scaled_to_the_picture() -> None:
    large = picture(LABELS).resize((1024, 1024), Image.Resampling.NEAREST)
    (face,) = LabelDetector(colour_parser(128), side=128).detect(large)
    np.testing.assert_allclose(face.landmarks, landmarks_of(*FACE) * 8, atol=12)


def test_wide_pictures_are_not_squashed(parser: FaceParser) -> None:
    (face,) = LabelDetector(parser).detect(picture(face_labels(256, 100, (180, 50, 60))))
    width, height = face.box[2:] - face.box[:2]
    assert height / width == pytest.approx(1.25, abs=0.08)
    np.testing.assert_allclose(face.landmarks, landmarks_of(180, 50, 60), atol=2.5)


def test_several_faces_apart_and_touching() -> None:
    apart = faces_in_labels(face_labels(256, 128, (60, 60, 60), (190, 64, 70)))
    np.testing.assert_allclose([face.landmarks[2] for face in apart], [(190, 74), (60, 68)], atol=2.5)
    cheek_to_cheek = face_labels(200, 128, (60, 60, 70), (112, 60, 70))
    touching = sorted(faces_in_labels(cheek_to_cheek), key=lambda face: face.box[0])
    assert len(touching) == 2
    for face, x in zip(touching, (60, 112), strict=True):
        np.testing.assert_allclose(face.landmarks[:3], landmarks_of(x, 60, 70)[:3], atol=3)


def test_a_nose_in_two_pieces_is_one_face() -> None:
    labels = LABELS.copy()
    labels[65, :] = np.where(labels[65, :] == 10, 1, labels[65, :])
    assert len(faces_in_labels(labels)) == 1


def test_a_false_nose_makes_no_second_face() -> None:
    labels = LABELS.copy()
    ellipse(labels, 84, 50, 5, 6, 10)
    np.testing.assert_allclose(only(labels).box, only(LABELS).box, atol=1)


def test_specks_and_heads_from_behind_are_no_faces() -> None:
    labels = np.zeros((128, 128), np.uint8)
    labels[3:5, 3:8] = 1
    labels[6, 5] = 10
    ellipse(labels, 64, 64, 30, 40, 17)
    assert faces_in_labels(labels) == []
    assert faces_in_labels(np.zeros((64, 64), np.uint8)) == []
    noisy = LABELS.copy()
    noisy[3:5, 3:8] = 1
    np.testing.assert_array_equal(only(noisy).box, only(LABELS).box)


def test_hidden_eyes_are_where_the_glasses_are() -> None:
    labels = LABELS.copy()
    for x in (46, 74):
        ellipse(labels, x, 53, 11, 8, 6)
    labels[52:54, 46:74] = 6
    face = only(labels)
    np.testing.assert_allclose(face.landmarks, landmarks_of(*FACE), atol=2.5)
    assert face.score == 1


def test_glasses_as_narrow_as_a_pixel_are_one_lens() -> None:
    labels = np.where(np.isin(LABELS, (4, 5)), 1, LABELS)
    labels[50:56, 46] = 6
    face = only(labels)
    assert np.isfinite(face.landmarks).all()
    assert face.score == 0.8


@pytest.mark.parametrize(("hidden", "share"), [((4, 5), 0.6), ((4,), 0.8), ((5,), 0.8), ((10,), 0.8), ((12, 13), 0.6)])
def test_hidden_landmarks_are_estimated_from_the_others(hidden: tuple[int, ...], share: float) -> None:
    face = only(np.where(np.isin(LABELS, hidden), 1, LABELS).astype(np.uint8))
    assert face.score == pytest.approx(share)
    np.testing.assert_allclose(face.landmarks, landmarks_of(*FACE), atol=0.15 * FACE[2])
    assert face.landmarks[0, 0] < face.landmarks[2, 0] < face.landmarks[1, 0]


def test_mouth_alone_still_gives_five_landmarks_in_the_box() -> None:
    face = only(np.where(np.isin(LABELS, (4, 5, 10)), 1, LABELS).astype(np.uint8))
    assert np.isfinite(face.landmarks).all()
    nose_only = only(np.where(np.isin(LABELS, (4, 5, 12, 13)), 1, LABELS).astype(np.uint8))
    assert nose_only.score == pytest.approx(0.2)
    np.testing.assert_allclose(nose_only.landmarks, landmarks_of(*FACE), atol=0.15 * FACE[2])


def test_unknown_labels_are_background() -> None:
    labels = np.where(LABELS == 0, 200, LABELS).astype(np.uint8)
    np.testing.assert_array_equal(only(labels).landmarks, only(LABELS).landmarks)


def test_landmarks_of_drawn_portraits_are_near_the_truth() -> None:
    portraits = draw(sample_people(24), sample_scenes([(person, 0) for person in range(24)]), size=128)
    faces = [only(labels) for labels in portraits.labels.numpy()]
    errors = np.abs(np.stack([face.landmarks for face in faces]) - portraits.landmarks.numpy())
    assert np.median(errors) < 0.6
    assert np.quantile(errors, 0.9) < 2

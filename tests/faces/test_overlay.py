import numpy as np
from hand_drawn import face_labels, landmarks_of, picture
from PIL import Image

from consistentid.faces.analyzer import FaceAnalyzer
from consistentid.faces.face import Detection
from consistentid.faces.overlay import COLOURS, draw_faces
from consistentid.faces.parts import part_masks

LABELS = face_labels(300, 200, (120, 90, 110))


def test_parts_are_tinted_and_the_rest_stays(analyzer: FaceAnalyzer) -> None:
    image = picture(LABELS)
    before = np.asarray(image).astype(int)
    shown = draw_faces(image, analyzer.analyze(image))
    assert shown.width == image.width
    assert shown.height > image.height
    after = np.asarray(shown)[:200].astype(int)
    for part, mask in part_masks(LABELS).items():
        distance = [np.abs(pixels[mask] - COLOURS[part]).mean() for pixels in (before, after)]
        assert distance[1] < 0.8 * distance[0], part
    np.testing.assert_array_equal(after[:, 220:], before[:, 220:])
    np.testing.assert_array_equal(np.asarray(image), before)


def test_legend_shows_every_colour_and_fits(analyzer: FaceAnalyzer) -> None:
    for width in (80, 300):
        image = picture(LABELS).crop((0, 0, width, 60))
        legend = np.asarray(draw_faces(image, []))[60:].reshape(-1, 3)
        for colour in COLOURS.values():
            assert (legend == colour).all(axis=1).sum() > 10


def test_without_faces_the_picture_is_unchanged() -> None:
    image = picture(LABELS)
    np.testing.assert_array_equal(np.asarray(draw_faces(image, []))[:200], np.asarray(image))


def test_markers_leave_the_face_free_and_show_the_chosen_one() -> None:
    """A face of 40 pixels in a photo of 3,000: its landmarks were under discs of 60."""
    image = Image.new("RGB", (3000, 2000), (90, 90, 90))
    faces = [
        Detection(np.array([x - 16, 480, x + 16, 520], np.float32), landmarks_of(x, 500, 40), 0.9) for x in (700, 1500)
    ]
    shown = np.asarray(draw_faces(image, faces, chosen=1), int)
    for x in (700, 1500):
        inside = shown[482:518, x - 14 : x + 14]
        assert (np.abs(inside - 90).max(axis=2) > 20).mean() < 0.05
    green = (shown[:, :, 1] > 200) & (shown[:, :, 0] < 60)
    y, x = np.nonzero(green)
    assert 1400 < x.min() < x.max() < 1600
    assert 400 < y.min() < y.max() < 600

import numpy as np
from hand_drawn import face_labels, picture

from consistentid.faces.analyzer import FaceAnalyzer
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

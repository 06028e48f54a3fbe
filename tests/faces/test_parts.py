import json

import numpy as np
import pytest
import synth
from hand_drawn import GOLDEN, PALETTE, face_labels, picture
from PIL import Image
from transformers import CLIPImageProcessorPil

from consistentid.errors import InputError
from consistentid.faces.parts import LABELS, PARTS, part_areas, part_masks, part_pictures, square_around, whole_picture
from consistentid.faces.regions import fill_holes

MASKS = np.load(GOLDEN / "cases" / "masks.npz")
CASES = json.loads((GOLDEN / "cases" / "masks.json").read_text())
REFERENCE_NAMES = (
    "Background", "Face", "Left_Eyebrow", "Right_Eyebrow", "Left_Eye", "Right_Eye", "Hair", "Left_Ear", "Right_Ear",
    "Mouth_External Contour", "Nose", "Mouth_Inner_Contour", "Upper_Lip", "Lower_Lip", "Neck", "Neck_Inner Contour",
    "Cloth", "Hat", "Earring",
)  # fmt: skip
FACE = face_labels(100, 120, (50, 55, 60))


def golden_mask(case: str, name: str) -> np.ndarray:
    height, width = CASES[case]["shape"]
    return np.unpackbits(MASKS[f"mask/{case}/{name}"])[: height * width].reshape(height, width).astype(bool)


@pytest.mark.parametrize("case", CASES)
def test_filled_outlines_equal_the_reference(case: str) -> None:
    labels = MASKS[f"labels/{case}"]
    names = [name for name in CASES[case]["masks"] if name != "WithoutBackground"]
    assert names == [name for label, name in enumerate(REFERENCE_NAMES) if (labels == label).any()]
    for name in names:
        np.testing.assert_array_equal(fill_holes(labels == REFERENCE_NAMES.index(name)), golden_mask(case, name), name)


@pytest.mark.parametrize("case", [case for case in CASES if CASES[case].get("selected_sd15") is not None])
def test_canvas_takes_the_parts_that_the_reference_takes(case: str) -> None:
    masks = part_masks(MASKS[f"labels/{case}"], "canvas")
    selected = CASES[case]["selected_sd15"]
    assert len(masks) == len(selected)
    for mask, name in zip(masks.values(), selected, strict=True):
        np.testing.assert_array_equal(mask, golden_mask(case, name), name)


@pytest.mark.parametrize(("base", "size", "shape"), [("sd15", 512, (300, 220)), ("sdxl", 1280, (200, 340))])
def test_canvas_pictures_equal_the_reference_to_the_last_bit(base: str, size: int, shape: tuple[int, int]) -> None:
    expected = np.load(GOLDEN / "cases" / "clip_images.npz")
    photo = Image.fromarray(synth.photo(*shape))
    parts = part_pictures(photo, synth.face(256, 256), "canvas", canvas_size=size)
    assert tuple(parts) == PARTS
    pictures = [*parts.values(), whole_picture(photo, np.zeros(4, np.float32), "canvas")]
    clip = CLIPImageProcessorPil(do_rescale=False, do_normalize=False)(images=pictures, return_tensors="np")
    np.testing.assert_array_equal(clip["pixel_values"][:5], expected[f"{base}/facial_u8"])
    np.testing.assert_array_equal(clip["pixel_values"][5:], expected[f"{base}/whole_u8"])


def test_square_parts_have_exact_labels_of_both_sides() -> None:
    masks = part_masks(FACE, "square")
    wanted = {"face": (1, 2, 3), "eyes": (4, 5), "ears": (7, 8), "nose": (10,), "mouth": (11, 12, 13)}
    assert tuple(masks) == PARTS
    for part, labels in wanted.items():
        np.testing.assert_array_equal(masks[part], np.isin(FACE, labels))
        assert part_areas(FACE)[part] == np.isin(FACE, labels).sum()


def test_face_touching_no_border_is_neither_empty_nor_everything() -> None:
    face = part_masks(FACE, "canvas")["face"]
    assert 0.1 < face.mean() < 0.5
    assert face[55, 50]  # the nose, swallowed
    assert not face[0, 0]


@pytest.mark.parametrize("layout", ["square", "canvas"])
def test_missing_parts_and_unknown_labels_are_left_out(layout: str) -> None:
    labels = np.where(np.isin(FACE, (4, 5, 7, 8)), 200, FACE).astype(np.uint8)
    assert tuple(part_masks(labels, layout)) == ("face", "nose", "mouth")
    assert part_masks(np.zeros((40, 48), np.uint8), layout) == {}


def test_profiles_show_the_one_eye_and_ear_that_are_seen() -> None:
    profile = FACE.copy()
    profile[:, :50] = np.where(np.isin(profile[:, :50], (1, 4, 7)), 0, profile[:, :50])
    masks = part_masks(profile)
    assert tuple(masks) == PARTS
    np.testing.assert_array_equal(masks["eyes"], FACE == 5)
    np.testing.assert_array_equal(masks["ears"], FACE == 8)
    for part, label in (("eyes", 5), ("ears", 8)):
        assert part_masks(profile, "canvas")[part].sum() == (label == FACE).sum()
        side = np.ptp(np.argwhere(label == FACE), axis=0).max() + 1
        assert part_pictures(picture(profile), profile)[part].width == round(1.5 * side)


def test_glasses_are_not_eyes() -> None:
    clear, dark = FACE.copy(), np.where(np.isin(FACE, (4, 5)), 6, FACE).astype(np.uint8)
    clear[40:42, 30:70] = 6
    np.testing.assert_array_equal(part_masks(clear)["eyes"], np.isin(clear, (4, 5)))
    assert tuple(part_masks(dark)) == ("face", "ears", "nose", "mouth")


def test_one_pixel_is_a_speck_in_the_square_layout() -> None:
    labels = FACE.copy()
    labels[labels == 10] = 1
    labels[60, 50] = 10
    assert "nose" not in part_masks(labels, "square")
    assert "nose" in part_masks(labels, "canvas")


def test_square_pictures_show_the_part_alone_and_unsquashed() -> None:
    pictures = part_pictures(picture(FACE), FACE, "square")
    for part, mask in part_masks(FACE).items():
        left, top, right, bottom = square_around(mask)
        cut = np.asarray(pictures[part])
        assert cut.shape == (bottom - top, right - left, 3)
        assert cut.shape[0] == cut.shape[1]
        seen = np.flatnonzero(cut.any(axis=(0, 2))), np.flatnonzero(cut.any(axis=(1, 2)))
        rows, columns = np.nonzero(mask)
        assert [np.ptp(axis) for axis in seen] == [np.ptp(columns), np.ptp(rows)]
        colours = np.unique(cut[cut.any(axis=2)], axis=0)
        expected = np.unique(PALETTE[np.unique(FACE[mask])], axis=0)
        np.testing.assert_array_equal(colours, expected)


def test_square_margin_reaches_over_the_border() -> None:
    mask = np.zeros((20, 30), bool)
    mask[0:4, 26:30] = True
    assert square_around(mask) == (25, -1, 31, 5)
    labels = np.where(mask, 10, 0).astype(np.uint8)
    cut = np.asarray(part_pictures(Image.new("RGB", (30, 20), "white"), labels)["nose"])
    np.testing.assert_array_equal(cut[..., 0] > 0, np.pad(np.ones((4, 4), bool), 1))


@pytest.mark.parametrize(("box", "left"), [((10, 5, 30, 25), 0), ((140, 5, 180, 45), 110), ((280, 5, 310, 45), 220)])
def test_whole_picture_is_the_square_nearest_the_face(box: tuple[int, ...], left: int) -> None:
    wide = Image.fromarray(np.tile(np.arange(320, dtype=np.uint8)[None, :, None], (100, 1, 3)))
    cut = whole_picture(wide, np.array(box, np.float32), "square")
    assert cut.size == (100, 100)
    assert np.asarray(cut)[0, 0, 0] == left
    assert whole_picture(wide, np.array(box, np.float32), "canvas") is wide


def test_a_square_picture_stays_whole() -> None:
    square = picture(FACE[:100])
    cut = whole_picture(square, np.array((0, 0, 9, 9), np.float32), "square")
    np.testing.assert_array_equal(np.asarray(cut), np.asarray(square))


def test_errors_name_what_is_allowed() -> None:
    with pytest.raises(InputError, match=r"'round'.*square, canvas"):
        part_masks(FACE, "round")
    with pytest.raises(InputError, match=r"\(100, 120\).*\(50, 60\)"):
        part_pictures(Image.new("RGB", (50, 60)), FACE)


def test_label_names() -> None:
    assert len(LABELS) == 19
    assert LABELS[10] == "nose"


def test_a_part_of_which_clip_gets_a_few_pixels_is_not_seen_on_a_canvas() -> None:
    """Of a face of 30 pixels in 512, an eye has less than one of CLIP's 224: black, and counted as seen."""
    labels = face_labels(512, 512, (256, 256, 30))
    image = picture(labels)
    assert "eyes" in part_masks(labels, "canvas")
    assert tuple(part_pictures(image, labels, "canvas")) == tuple(part_areas(labels, "canvas")) == ("face",)
    assert tuple(part_pictures(image, labels, "square")) == PARTS  # enlarged there
    large = face_labels(512, 512, (256, 240, 130))  # four of these faces fill the side
    assert tuple(part_pictures(picture(large), large, "canvas")) == PARTS


def test_the_other_eye_is_taken_where_clip_gets_too_little_of_the_first() -> None:
    labels = face_labels(512, 512, (256, 240, 200))
    first = labels == 4
    first[np.cumsum(first).reshape(first.shape) <= 20] = False
    labels[first] = 1
    shown = np.asarray(part_pictures(picture(labels), labels, "canvas")["eyes"])
    assert (shown[labels == 4] < 30).all()
    assert (shown[labels == 5].max(axis=1) > 0).mean() > 0.9

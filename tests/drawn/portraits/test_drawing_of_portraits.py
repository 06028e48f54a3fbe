"""Pictures, labels and landmarks agree with one another and with the traits they were drawn from."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from consistentid.drawn.portraits import People, Portraits, Scenes, draw, locate, sample_people, sample_scenes
from consistentid.drawn.portraits.people import BEARDS, FRINGES, HAIRSTYLES
from consistentid.drawn.portraits.scenes import (
    ARMS,
    BACKGROUNDS,
    CLOTHES,
    EXPRESSIONS,
    FRAMINGS,
    GLASSES,
    HATS,
    LIGHTS,
    STYLES,
    framing,
)
from consistentid.errors import InputError

SKIN, EYES, NOSE, MOUTH, CLOTH, HAIR, HAT = 1, (4, 5), 10, (11, 12, 13), 16, 17, 18
BROWS, GLASSES_LABEL = (2, 3), 6
SHORT = {"hairstyle": HAIRSTYLES.index("short")}
BARELY_SEEN = {"nose_tip": 0.005}
NOTHING_ON = {"hat": 0, "glasses": 0, "earrings": False, "necklace": False, "eyes_closed": False}


def with_values(table: People | Scenes, **values: object) -> People | Scenes:
    """The table with whole columns set to one value each."""
    return replace(table, **{k: np.full_like(getattr(table, k), v) for k, v in values.items()})


def near(mask: Tensor, radius: int) -> Tensor:
    """A mask (B, H, W) grown by ``radius`` pixels."""
    return F.max_pool2d(mask[:, None].float(), 2 * radius + 1, 1, radius)[:, 0] > 0


def is_in(labels: Tensor, *wanted: int) -> Tensor:
    return torch.isin(labels, torch.tensor(wanted, dtype=labels.dtype))


def changed(a: Portraits, b: Portraits, by: float = 1 / 255) -> Tensor:
    """Pixels (B, H, W) that differ visibly."""
    return (a.images - b.images).abs().amax(1) > by


@pytest.fixture(scope="module")
def few() -> tuple[People, Scenes]:
    """Eight people in plain frontal scenes, with nothing before their faces."""
    people = with_values(sample_people(8, split="test"), hairstyle=HAIRSTYLES.index("bald"), fringe=0, beard=0)
    scenes = sample_scenes([(i, 0) for i in range(8)], split="test", framing="portrait")
    return people, with_values(scenes, **NOTHING_ON, yaw=0.1, background=0, light=0, style=STYLES.index("shaded"))


@pytest.fixture(scope="module")
def few_drawn(few: tuple[People, Scenes]) -> Portraits:
    return draw(*few, 64)


# Identity


@pytest.mark.parametrize(
    ("trait", "value", "people"),
    [
        ("woman", True, {"woman": False}),
        ("age", 1.0, {"age": 0.2}),
        ("face_width", 0.9, {}),
        ("face_height", 1.1, {}),
        ("jaw", 0.9, {"jaw": 0.1}),
        ("squareness", 3.0, {"squareness": 1.9}),
        ("skin", 0.1, {}),
        ("blush", 0.5, {"blush": 0.0}),
        ("freckles", True, {"freckles": False}),
        ("mole", True, {"mole": False}),
        ("mole_x", 0.5, {"mole": True, "mole_x": -0.5}),
        ("mole_y", 0.5, {"mole": True, "mole_y": 0.15}),
        ("eye_color", 4, {"eye_color": 0}),
        ("eye_width", 0.25, {"eye_width": 0.15}),
        ("eye_height", 0.15, {"eye_height": 0.08}),
        ("eye_tilt", 0.28, {"eye_tilt": -0.2}),
        ("eye_spacing", 0.4, {"eye_spacing": 0.3}),
        ("eye_level", -0.18, {"eye_level": -0.02}),
        ("lashes", 1.0, {"lashes": 0.0}),
        ("brow_weight", 0.08, {"brow_weight": 0.025}),
        ("brow_arch", 0.11, {"brow_arch": -0.02}),
        ("brow_tilt", 0.22, {"brow_tilt": -0.2}),
        ("brow_gap", 0.27, {"brow_gap": 0.15}),
        ("nose_length", 0.46, {"nose_length": 0.27}),
        ("nose_width", 0.2, {"nose_width": 0.1}),
        ("nose_tip", 1.0, {"nose_tip": 0.0, "nose_width": 0.1}),
        ("nose_bridge", 0.08, {"nose_bridge": 0.03}),
        ("mouth_width", 0.36, {"mouth_width": 0.18}),
        ("mouth_level", 0.22, {"mouth_level": 0.13}),
        ("upper_lip", 0.065, {"upper_lip": 0.02}),
        ("lower_lip", 0.09, {"lower_lip": 0.03}),
        ("lip_color", 0.9, {"lip_color": 0.15}),
        ("ear_size", 0.26, {"ear_size": 0.15}),
        ("ear_angle", 0.5, {"ear_angle": 0.0, "ear_size": 0.2}),
        ("hair_color", 4, {"hair_color": 0}),
        ("hair_shade", 0.85, {**SHORT, "hair_shade": 1.15}),
        ("hairstyle", HAIRSTYLES.index("long"), {}),
        ("hair_volume", 0.22, {**SHORT, "hair_volume": 0.06}),
        ("hair_length", 1.0, {"hairstyle": HAIRSTYLES.index("bobbed"), "hair_length": 0.0}),
        ("hairline", -0.5, {**SHORT, "hairline": -0.75}),
        ("fringe", FRINGES.index("straight"), SHORT),
        ("parting", 0.5, {"hairstyle": HAIRSTYLES.index("side-parted"), "parting": -0.5}),
        ("beard", BEARDS.index("full beard"), {}),
        ("beard_length", 1.0, {"beard": BEARDS.index("full beard"), "beard_length": 0.0}),
    ],
)
def test_every_trait_is_seen(few: tuple[People, Scenes], trait: str, value: float, people: dict[str, float]) -> None:
    base = with_values(few[0], **people)[:3]
    other = with_values(base, **{trait: value})
    by = BARELY_SEEN.get(trait, 0.03)
    seen = changed(draw(base, few[1][:3], 64), draw(other, few[1][:3], 64), by).sum((1, 2))
    assert seen.min() >= 3, f"{trait}: {seen.tolist()} pixels"


def test_all_traits_are_tested() -> None:
    [mark] = [m for m in test_every_trait_is_seen.pytestmark if m.name == "parametrize"]
    assert {case[0] for case in mark.args[1]} == {f.name for f in fields(People)}


# Scenes


@pytest.mark.parametrize(
    ("factor", "value", "scenes"),
    [
        ("yaw", 0.4, {"yaw": -0.4}),
        ("pitch", 0.2, {"pitch": -0.2}),
        ("roll", 0.2, {"roll": -0.2}),
        ("center_x", 0.1, {"center_x": -0.1}),
        ("center_y", 0.14, {"center_y": 0.0}),
        ("scale", 0.62, {"scale": 0.54}),
        *(("expression", i, {"expression": 0}) for i in range(1, len(EXPRESSIONS))),
        ("intensity", 1.1, {"intensity": 0.6, "expression": EXPRESSIONS.index("laughing")}),
        ("gaze_x", 1.0, {"gaze_x": -1.0}),
        ("gaze_y", 0.7, {"gaze_y": -0.7}),
        ("eyes_closed", True, {}),
        *(("light", i, {"light_strength": 1.0}) for i in range(1, len(LIGHTS))),
        ("light_strength", 1.0, {"light": LIGHTS.index("left"), "light_strength": 0.5}),
        *(("clothes", i, {"clothes": i - 1}) for i in range(len(CLOTHES))),
        ("clothes_color", 0, {"clothes_color": 4}),
        *(("hat", i, {"hat_color": 0}) for i in range(1, len(HATS))),
        *(("hat_color", 0, {"hat": i, "hat_color": 4}) for i in range(1, len(HATS))),
        *(("glasses", i, {}) for i in range(1, len(GLASSES))),
        ("earrings", True, {}),
        ("necklace", True, {"clothes": 0}),
        *(("background", i, {}) for i in range(1, len(BACKGROUNDS))),
        ("background_color", 0, {"background_color": 4}),
        *(("background_phase", 0.1, {"background": i, "background_phase": 0.7}) for i in range(2, len(BACKGROUNDS))),
        *(("style", i, {"style": i - 1}) for i in range(len(STYLES))),
        *(("arms", i, {"arms": 0, "scale": 0.3, "center_y": -0.4}) for i in range(1, len(ARMS))),
    ],
)
def test_every_scene_factor_is_seen(
    few: tuple[People, Scenes], factor: str, value: float, scenes: dict[str, float]
) -> None:
    around = {"clothes": len(CLOTHES), "style": len(STYLES)}
    scenes = {k: v % around[k] if k in around else v for k, v in scenes.items()}
    base = with_values(few[1], **scenes)[:3]
    other = with_values(base, **{factor: value})
    seen = changed(draw(few[0][:3], base, 64), draw(few[0][:3], other, 64), by=0.03).sum((1, 2))
    assert (seen >= 4).sum() >= 2, f"{factor}: {seen.tolist()} pixels"  # a wide face may hide earrings


def test_all_scene_factors_are_tested() -> None:
    [mark] = [m for m in test_every_scene_factor_is_seen.pytestmark if m.name == "parametrize"]
    assert {case[0] for case in mark.args[1]} == {f.name for f in fields(Scenes)}


def test_drawing_leaves_people_and_scenes_as_they_are(few: tuple[People, Scenes]) -> None:
    before = [{f.name: getattr(t, f.name).copy() for f in fields(t)} for t in few]
    draw(*few, 32)
    for table, old in zip(few, before, strict=True):
        for name, values in old.items():
            np.testing.assert_array_equal(getattr(table, name), values, name)


# One picture, many pictures, larger pictures


def test_again_the_same(few: tuple[People, Scenes], few_drawn: Portraits) -> None:
    again = draw(*few, 64)
    for f in fields(Portraits):
        assert torch.equal(getattr(again, f.name), getattr(few_drawn, f.name))


@pytest.mark.slow
def test_a_picture_does_not_depend_on_those_drawn_with_it(sample) -> None:
    for rows in ([3], [40, 3, 255], list(range(200, 240))):
        alone = draw(sample.people[rows], sample.scenes[rows], sample.size)
        assert torch.equal(alone.labels, sample.drawn.labels[rows])
        assert torch.equal(alone.images, sample.drawn.images[rows])
        assert torch.equal(alone.landmarks, sample.drawn.landmarks[rows])


def test_shapes_and_ranges(few_drawn: Portraits) -> None:
    assert few_drawn.images.shape == (8, 3, 64, 64)
    assert few_drawn.images.dtype == torch.float32
    assert few_drawn.images.min() >= 0
    assert few_drawn.images.max() <= 1
    assert few_drawn.labels.shape == (8, 64, 64)
    assert few_drawn.labels.dtype == torch.uint8
    assert few_drawn.landmarks.shape == (8, 5, 2)
    assert few_drawn.landmarks.dtype == torch.float32


def test_people_and_scenes_must_be_as_many(few: tuple[People, Scenes]) -> None:
    with pytest.raises(InputError, match="8 people and 3 scenes"):
        draw(few[0], few[1][:3])


def test_landmarks_without_the_picture(sample) -> None:
    marks, boxes = locate(sample.people, sample.scenes, sample.size)
    assert torch.equal(marks, sample.drawn.landmarks)
    assert torch.equal(boxes, sample.drawn.boxes)


def test_boxes_hold_the_face_and_little_else(sample) -> None:
    """All landmarks are in the box, and the face that is seen fills it but for its corners."""
    marks, boxes = sample.drawn.landmarks, sample.drawn.boxes
    assert (marks >= boxes[:, None, :2]).all()
    assert (marks <= boxes[:, None, 2:]).all()
    bare = (sample.scenes.hat == 0) & (sample.people.hairstyle == HAIRSTYLES.index("bald"))
    assert bare.sum() > 5
    rows, columns = torch.arange(64.0).view(64, 1), torch.arange(64.0).view(1, 64)
    for i in np.nonzero(bare)[0]:
        left, top, right, bottom = boxes[i].tolist()
        inside = (columns >= left - 1.5) & (columns <= right + 0.5) & (rows >= top - 1.5) & (rows <= bottom + 0.5)
        features = is_in(sample.drawn.labels[i], *BROWS, *EYES, NOSE, *MOUTH)
        assert not (features & ~inside).any()
        skin = is_in(sample.drawn.labels[i], SKIN, *BROWS, *EYES, NOSE, *MOUTH, GLASSES_LABEL)
        assert (skin & inside).sum() / inside.sum() > 0.55


def test_framings(few: tuple[People, Scenes]) -> None:
    """A closer framing has a larger face; full length has legs, half length none; most pictures are portraits."""
    faces, below = {}, {}
    for name in FRAMINGS:
        scenes = sample_scenes([(i, 0) for i in range(8)], split="test", framing=name)
        assert {framing(float(x)) for x in scenes.scale} == {name}
        drawn = draw(few[0], with_values(scenes, **NOTHING_ON, clothes=CLOTHES.index("t-shirt"), clothes_color=0), 128)
        faces[name] = (drawn.boxes[:, 3] - drawn.boxes[:, 1]).mean()
        below[name] = (drawn.labels[:, -3:] == CLOTH).float().mean()
    assert list(faces) == sorted(faces, key=lambda name: -faces[name])
    assert faces["close-up"] > 90
    assert 24 <= faces["full-length"] < faces["half-length"] < 48
    assert below["full-length"] < 0.02 < below["half-length"]
    shares = np.unique(
        [framing(float(x)) for x in sample_scenes([(i, 0) for i in range(1000)]).scale], return_counts=True
    )
    assert dict(zip(*shares, strict=True))["portrait"] > 500


@pytest.mark.parametrize(
    ("factor", "kinds", "label"), [("hat", HATS, HAT), ("glasses", GLASSES, GLASSES_LABEL), ("clothes", CLOTHES, CLOTH)]
)
def test_kinds_can_be_told_apart(few: tuple[People, Scenes], factor: str, kinds: tuple[str, ...], label: int) -> None:
    """Between two kinds of a thing in one colour, a good part of its pixels differ much, on everybody."""
    first = kinds[0] == "none"
    drawn = [draw(few[0], with_values(few[1], **{factor: i}), 128) for i in range(first, len(kinds))]
    for i, a in enumerate(drawn):
        for b in drawn[:i]:
            thing = is_in(a.labels, label) | is_in(b.labels, label)
            differ = (changed(a, b, by=0.15) & thing).sum((1, 2)) / thing.sum((1, 2))
            assert differ.min() > 0.15, (i, differ)


def test_sizes_of_other_shapes_show_more_at_the_sides(few: tuple[People, Scenes]) -> None:
    square, wide, tall = (draw(*few, size) for size in (64, (96, 64), (64, 96)))
    assert wide.images.shape == (8, 3, 64, 96)
    assert tall.images.shape == (8, 3, 96, 64)
    assert torch.equal(wide.labels[:, :, 16:80], square.labels)
    assert torch.equal(tall.labels[:, 16:80], square.labels)
    torch.testing.assert_close(wide.images[..., 16:80], square.images, atol=1e-4, rtol=0)
    torch.testing.assert_close(wide.landmarks - torch.tensor([16.0, 0]), square.landmarks, atol=1e-4, rtol=0)


def test_twice_the_size_is_the_same_picture(sample) -> None:
    large = draw(sample.people[:48], sample.scenes[:48], 128)
    small = F.avg_pool2d(large.images, 2)
    outlined = np.isin(
        sample.scenes.style[:48], [STYLES.index("ink"), STYLES.index("pencil")]
    )  # of a pen of two pixels
    error = (small - sample.drawn.images[:48]).abs().mean((1, 2, 3)).numpy()
    assert error[~outlined].max() < 0.025
    assert error[outlined].max() < 0.06
    torch.testing.assert_close(large.landmarks / 2, sample.drawn.landmarks[:48], atol=1e-3, rtol=0)
    same = large.labels[:, ::2, ::2] == sample.drawn.labels[:48]
    assert same.float().mean() > 0.95


# Labels and landmarks


def test_labels_are_those_of_celebamask_and_all_occur(sample) -> None:
    assert torch.equal(torch.unique(sample.drawn.labels), torch.arange(19, dtype=torch.uint8))


def test_left_is_the_left_of_the_picture(few_drawn: Portraits) -> None:
    columns = torch.arange(64.0).expand(64, 64)
    for left, right in ((2, 3), (4, 5), (7, 8)):
        for labels in few_drawn.labels:
            assert columns[labels == left].mean() < columns[labels == right].mean()


def test_landmarks_lie_on_what_they_mark(sample) -> None:
    labels, marks = sample.drawn.labels, sample.drawn.landmarks.floor().long().clamp(0, sample.size - 1)
    rows = torch.arange(len(labels))
    hidden = (HAIR, HAT)  # hair may hang before an eye

    def lies_on(mark: int, wanted: tuple[int, ...], radius: int) -> Tensor:
        return near(is_in(labels, *wanted), radius)[rows, marks[:, mark, 1], marks[:, mark, 0]]

    closed = torch.from_numpy(sample.scenes.eyes_closed)
    tiny = torch.from_numpy(sample.scenes.scale < 0.4)  # an eye of half a pixel has no label
    for mark, eye in ((0, 4), (1, 5)):
        on = lies_on(mark, (eye, GLASSES_LABEL), 1)
        assert on[~closed].float().mean() > 0.96
        assert (on | closed | tiny | lies_on(mark, hidden, 1)).all()
    assert lies_on(2, (NOSE,), 1).all()
    for corner in (3, 4):
        assert (tiny | lies_on(corner, (*MOUTH, *hidden), 2)).all()
    assert (sample.drawn.landmarks[:, 0, 0] < sample.drawn.landmarks[:, 1, 0]).all()
    assert (sample.drawn.landmarks[:, 3, 0] < sample.drawn.landmarks[:, 4, 0]).all()


@pytest.mark.parametrize(
    ("table", "column", "labels", "base"),
    [
        ("scenes", "hat_color", (HAT,), {"hat": HATS.index("hat")}),
        ("scenes", "hat_color", (HAT,), {"hat": HATS.index("headband")}),
        ("scenes", "clothes_color", (CLOTH,), {"clothes": CLOTHES.index("hoodie")}),
        ("people", "hair_color", (HAIR, *BROWS), SHORT),
        ("people", "eye_color", EYES, {}),
        ("people", "lip_color", MOUTH, {}),
    ],
)
def test_pixels_under_a_label_are_what_it_says(
    few: tuple[People, Scenes], table: str, column: str, labels: tuple[int, ...], base: dict[str, int]
) -> None:
    """Other paint on one thing changes the pixels with its label, most of them, and none but those at its edge."""
    people, scenes = few
    if table == "scenes":
        scenes = with_values(scenes, **base)
        a, b = (draw(people, with_values(scenes, **{column: v}), 64) for v in (0, 4))
    else:
        people = with_values(people, **base)
        a, b = (draw(with_values(people, **{column: v}), scenes, 64) for v in (0, 1))
    assert torch.equal(a.labels, b.labels)
    under, differs = is_in(a.labels, *labels), changed(a, b, by=0.03)
    assert not (differs & ~near(under, 2)).any()
    # The whites and pupils of eyes, the teeth and the line between the lips keep their colour.
    # Headbands have a white stripe; the cords of hoodies keep theirs, too.
    least = {EYES: 0.25, MOUTH: 0.45, (HAT,): 0.9}.get(labels, 0.95)
    assert (differs & under).sum() / under.sum() > least


def test_background_is_all_that_is_not_the_person(few: tuple[People, Scenes]) -> None:
    a, b = (draw(few[0], with_values(few[1], background=i), 64) for i in (0, BACKGROUNDS.index("beach")))
    assert torch.equal(a.labels, b.labels)
    behind = a.labels == 0
    assert (changed(a, b) & behind).sum() / behind.sum() > 0.95
    assert not (changed(a, b) & ~near(behind, 2)).any()

"""Several people through the whole pipeline: places given or found, likeness of each, repair of small faces."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import tiny
from consistentid.adapter.identity import Identity
from consistentid.adapter.regions import Regions
from consistentid.errors import ArgumentError, FaceError, ImageError, NoFaceError
from consistentid.faces.face import Detection
from consistentid.faces.matching import assign
from consistentid.pipeline.pipeline import ConsistentIDPipeline
from consistentid.pipeline.places import faces_in, regions_of
from consistentid.pipeline.repair import face_mask, is_small, place_mask
from consistentid.pipeline.request import Request

PROMPT = "two friends at a beach"
LEFT, RIGHT = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)


@pytest.fixture(scope="module")
def studio() -> ConsistentIDPipeline:
    return ConsistentIDPipeline.from_preset(tiny.preset(), device="cpu")


@pytest.fixture(scope="module")
def people(studio: ConsistentIDPipeline) -> list[Identity]:
    return [studio.identify(tiny.portrait()), studio.identify(tiny.portrait(9))]


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image, int)


def difference(a: Image.Image, b: Image.Image) -> int:
    return int(np.abs(pixels(a) - pixels(b)).max())


# ------------------------------------------------------------------------------------------------------- given places


def test_places_and_words_reach_the_picture(studio: ConsistentIDPipeline, people: list[Identity]) -> None:
    call: dict[str, Any] = {"seed": 3, "regions": [LEFT, RIGHT]}
    first = studio(people, PROMPT, **call)
    assert difference(studio(people, PROMPT, **call).images[0], first.images[0]) == 0
    swapped = studio(people[::-1], PROMPT, seed=3, regions=[RIGHT, LEFT])
    assert difference(swapped.images[0], first.images[0]) <= 1, "who is named first does not matter"
    for other in (
        {"regions": [RIGHT, LEFT]},
        {"person_prompts": ["a woman in a red dress", ""]},
        {"person_scales": [0.0, 1.0]},
        {"merge_at": [0.0, 1.0]},
        {"face_text": [None, "Green eyes."]},
        {"parts": [{"eyes": "green eyes"}, None]},
        {"base_ratio": 0.5},
        {"regions_end": 0.2},
    ):
        assert difference(studio(people, PROMPT, **(call | other)).images[0], first.images[0]), other


@pytest.mark.slow
def test_the_preset_says_how_much_of_the_prompt_is_mixed_into_regions(people: list[Identity]) -> None:
    asked: dict[str, Any] = {"seed": 3, "num_inference_steps": 2, "regions": [LEFT, RIGHT]}
    words = ["a woman in a red dress", ""]
    mixed = ConsistentIDPipeline.from_preset(tiny.preset(), device="cpu", base_ratio=0.5)
    plain = ConsistentIDPipeline.from_preset(tiny.preset(), device="cpu")
    by_preset = mixed(people, PROMPT, **asked).images[0]
    assert difference(by_preset, plain(people, PROMPT, base_ratio=0.5, **asked).images[0]) == 0
    assert difference(by_preset, mixed(people, PROMPT, base_ratio=0.0, **asked).images[0])
    dressed = mixed(people, PROMPT, person_prompts=words, **asked).images[0]
    own = plain(people, PROMPT, person_prompts=words, base_ratio=[0.0, 0.5], **asked).images[0]
    assert difference(dressed, own) == 0, "who has words of their own is as these say"
    alone = plain(people, PROMPT, base_ratio=1, merge_at=0.0, **asked).images[0]
    told = plain(people, PROMPT, base_ratio=1, merge_at=0.0, person_prompts=words, **asked).images[0]
    assert difference(alone, told) == 0, "of the prompt alone nothing else is heard"


def test_one_person_everywhere_is_the_plain_call(studio: ConsistentIDPipeline, people: list[Identity]) -> None:
    plain = studio(people[0], PROMPT, seed=3, num_images_per_prompt=2)
    placed = studio(people[:1], PROMPT, seed=3, num_images_per_prompt=2, regions=[(0, 0, 1, 1)])
    assert max(difference(a, b) for a, b in zip(plain.images, placed.images, strict=True)) <= 1


def test_a_mask_is_a_place(studio: ConsistentIDPipeline, people: list[Identity], tmp_path: Path) -> None:
    size = tuple(studio.sampler.native_size)
    for name, box in (("left.png", LEFT), ("right.png", RIGHT)):
        mask = Image.new("L", size, 0)
        mask.paste(255, tuple(round(x * size[i % 2]) for i, x in enumerate(box)))
        mask.save(tmp_path / name)
    masks = studio(people, PROMPT, seed=3, regions=[tmp_path / "left.png", tmp_path / "right.png"])
    boxes = studio(people, PROMPT, seed=3, regions=[LEFT, RIGHT])
    assert difference(masks.images[0], boxes.images[0]) <= 1
    with pytest.raises(ArgumentError, match="of another shape than the picture"):
        studio(people, PROMPT, seed=3, width=size[0] // 2, height=size[1], regions=[tmp_path / "left.png", RIGHT])
    with pytest.raises(ImageError, match=r"nowhere\.png"):
        studio(people, PROMPT, regions=[tmp_path / "nowhere.png", RIGHT])


def test_places_move_into_the_window_that_a_mask_cuts_out(studio: ConsistentIDPipeline, people: list[Identity]) -> None:
    picture = tiny.draw((64, 60), (190, 60), size=(256, 128))[0]
    mask = Image.new("L", picture.size, 0)
    mask.paste(255, (20, 20, 100, 110))
    made = studio(people[:1], PROMPT, seed=3, image=picture, mask=mask, regions=[(0.0, 0.0, 0.5, 1.0)])
    outside = np.asarray(mask) == 0
    assert np.array_equal(np.asarray(made.images[0])[outside], np.asarray(picture)[outside])
    assert difference(made.images[0], picture)
    with pytest.raises(ArgumentError, match=r"regions\[1\] lies outside of what is drawn anew"):
        studio(people, PROMPT, image=picture, mask=mask, regions=[LEFT, (0.8, 0.0, 1.0, 1.0)])


def test_everything_is_written_down(studio: ConsistentIDPipeline, people: list[Identity], tmp_path: Path) -> None:
    made = studio(people, PROMPT, seed=3, regions=[LEFT, RIGHT], person_prompts=["a woman", "a man"], merge_at=[0, 1])
    results = made.save(tmp_path / "out", sheet=False)
    assert results["person_prompts"] == ["a woman", "a man"]
    assert results["merge_at"] == [0, 1]
    (picture,) = results["pictures"]
    assert [person["region"] for person in picture["people"]] == [list(LEFT), list(RIGHT)]
    likenesses = [person["likeness"] for person in picture["people"]]
    known = [x for x in likenesses if not math.isnan(x)]
    assert math.isnan(picture["likeness"]) if len(known) < 2 else picture["likeness"] == min(known)


def test_a_request_of_several_people_goes_through_json(people: list[Identity]) -> None:
    mask = Image.new("L", (64, 64), 0)
    mask.paste(255, (0, 0, 32, 64))
    request = Request(
        people, PROMPT, regions=[mask, RIGHT], person_prompts=["a", ""], parts=[{"eyes": "green"}, None], repair=True,
        repair_below=0.5, merge_at=[0.2, 0.4],
    )  # fmt: skip
    again = Request.from_dict(request.to_dict(), identity=people)
    assert again.places is not None
    assert request.places is not None
    assert again.places.key == request.places.key
    assert again.to_dict() == request.to_dict()


# -------------------------------------------------------------------------------------------------------- found places


class Fixed:
    """A detector that finds faces at these places, whatever the picture."""

    def __init__(self, *found: list[Detection]) -> None:
        self.answers = list(found)

    def detect(self, image: Image.Image) -> list[Detection]:
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


def face(left: float, top: float, right: float, bottom: float) -> Detection:
    across, down = right - left, bottom - top
    landmarks = [(0.3, 0.4), (0.7, 0.4), (0.5, 0.6), (0.35, 0.8), (0.65, 0.8)]
    points = [(left + x * across, top + y * down) for x, y in landmarks]
    return Detection(np.array([left, top, right, bottom], np.float32), np.array(points, np.float32), 1.0)


def test_people_without_places_go_where_the_base_draws_faces(
    studio: ConsistentIDPipeline, people: list[Identity], monkeypatch: pytest.MonkeyPatch
) -> None:
    width, height = studio.sampler.native_size
    two = [face(0.6 * width, 4, 0.9 * width, 20), face(0.1 * width, 4, 0.35 * width, 18)]
    detector = Fixed(two[:1], two)
    monkeypatch.setattr(studio.analyzer, "detector", detector)
    with pytest.warns(UserWarning, match="seed 3 shows fewer than 2 faces, so seed 4 was taken instead"):
        made = studio(people, PROMPT, seed=3)
    assert made.seeds == [4]
    (left, right) = (person["region"] for person in made.people[0])
    assert left[2] == pytest.approx(right[0], abs=1e-3)
    assert left[0] < 0.1
    assert right[2] > 0.9
    expected = studio(people, PROMPT, seed=4, regions=regions_of(two[::-1], (width, height)))
    assert difference(made.images[0], expected.images[0]) == 0
    monkeypatch.setattr(studio.analyzer, "detector", Fixed(two[:1]))
    with pytest.raises(FaceError, match="the base draws fewer than 2 faces for 'two friends at a beach', with 8 seeds"):
        studio(people, PROMPT, seed=3)


def test_several_people_stand_side_by_side_in_a_wider_picture(
    people: list[Identity], monkeypatch: pytest.MonkeyPatch
) -> None:
    studio = ConsistentIDPipeline.from_preset(tiny.preset(), device="cpu", person_width=0.5)
    width, height = studio.sampler.native_size
    three = [(0.0, 0.0, 0.3, 1.0), (0.3, 0.0, 0.7, 1.0), (0.7, 0.0, 1.0, 1.0)]
    call: dict[str, Any] = {"seed": 3, "num_inference_steps": 2}

    def size(who: Any, **more: Any) -> tuple[int, int]:
        return studio(who, PROMPT, **(call | more)).images[0].size

    assert size(people[0]) == (width, height)
    assert size(people, regions=[LEFT, RIGHT]) == (width * 3 // 2, height)
    assert size([*people, people[0]], regions=three) == (width * 2, height), "nor is it called far from the base's own"
    assert size(people, regions=[LEFT, RIGHT], width=width) == (width, height)
    picture = tiny.draw((64, 60), (190, 60), size=(256, 128))[0]
    across, down = size(people, regions=[LEFT, RIGHT], image=picture)
    assert across == 2 * down, "a picture that is given keeps its shape"

    seen: list[tuple[int, int]] = []
    faces = [face(0.6 * width, 4, 0.9 * width, 20), face(0.1 * width, 4, 0.35 * width, 18)]

    def detect(image: Image.Image) -> list[Detection]:
        seen.append(image.size)
        return faces

    monkeypatch.setattr(studio.analyzer, "detector", SimpleNamespace(detect=detect))
    assert size(people) == (width * 3 // 2, height)
    assert set(seen) == {(width * 3 // 2, height)}, "the first pass, too"


def test_regions_of_faces_part_neighbours_in_every_direction() -> None:
    three = [face(10, 10, 30, 40), face(70, 12, 90, 40), face(12, 70, 32, 95)]
    regions = regions_of(three, (128, 128))
    assert faces_in(regions, three, (128, 128)) == [0, 1, 2]
    cover = regions.cover(128, 128)
    assert cover.sum(dim=0).max() <= 1 + 1e-6, "they do not overlap"


def test_faces_are_found_in_their_person_s_place() -> None:
    regions = Regions.read([LEFT, RIGHT])
    big, small, there = face(10, 10, 40, 40), face(10, 60, 20, 70), face(80, 10, 90, 20)
    assert faces_in(regions, [big, there, small], (100, 100)) == [0, 1]
    assert faces_in(regions, [big, small], (100, 100)) == [0, None]


def test_assignment_is_the_best_in_all() -> None:
    assert assign(np.array([[0.9, 0.8], [0.8, 0.1]])) == [1, 0]
    assert assign(np.array([[0.1, 0.9, 0.3]])) == [1]
    assert assign(np.array([[0.1], [0.9]])) == [None, 0]
    assert assign(np.zeros((2, 0))) == [None, None]


# -------------------------------------------------------------------------------------------------------------- repair


ONE, TWO = tiny.draw((34, 50))[0], tiny.draw((34, 50), (94, 60), mouth=9)[0]


@pytest.fixture
def all_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every face is too small for the tiny base."""
    monkeypatch.setattr("consistentid.pipeline.repair.SMALL", 10.0)


def test_a_small_face_is_drawn_anew_and_all_else_stays(
    studio: ConsistentIDPipeline, people: list[Identity], all_small: None
) -> None:
    picture = ONE
    (found,) = studio.analyzer.detect(picture)
    made = studio.repair(picture, people[0], "a woman", seed=5)
    (repaired,) = made.repairs[0]
    assert repaired["box"] == [round(float(x)) for x in found.box]
    assert repaired["likeness_before"] == pytest.approx(studio.score([picture], people[0])[0])
    mask = np.asarray(face_mask(found, picture.size)) > 0
    assert not mask.all()
    assert np.array_equal(pixels(made.images[0])[~mask], pixels(picture)[~mask])
    better = repaired["likeness_after"] >= repaired["likeness_before"]
    assert repaired["kept"] == better == bool(difference(made.images[0], picture))


def test_a_redrawn_face_is_kept_where_it_is_not_less_like(
    studio: ConsistentIDPipeline, people: list[Identity], all_small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = ONE
    detections = studio.analyzer.detector.detect(picture)
    monkeypatch.setattr(studio.analyzer, "detector", Fixed(detections))
    target = people[0].embedding.numpy()

    class Recogniser:
        """The likeness of a picture is 0.5; of one that was changed, 0.5 and `gain`."""

        def __init__(self, gain: float) -> None:
            self.gain = gain

        def embed(self, image: Image.Image, landmarks: Any) -> np.ndarray:
            return target * np.float32(0.5 + (self.gain if difference(image, picture) else 0))

    for gain, kept in ((0.2, True), (-0.2, False)):
        monkeypatch.setattr(studio.analyzer, "recogniser", Recogniser(gain))
        made = studio.repair(picture, people[0], seed=5)
        assert made.repairs[0][0]["kept"] is kept
        assert bool(difference(made.images[0], picture)) is kept
        assert made.scores == [pytest.approx(0.7 if kept else 0.5)]


@pytest.mark.parametrize(
    ("below", "tries", "tried", "after"), [(None, 3, 2, 0.6), (0.8, 3, 3, 0.9), (0.8, 2, 2, 0.6), (None, 1, 1, 0.4)]
)
def test_a_face_is_drawn_until_it_is_like_enough(
    studio: ConsistentIDPipeline, people: list[Identity], all_small: None, monkeypatch: pytest.MonkeyPatch,
    below: float | None, tries: int, tried: int, after: float,
) -> None:  # fmt: skip
    picture, asked = ONE, []
    monkeypatch.setattr(studio.analyzer, "detector", Fixed(studio.analyzer.detector.detect(picture)))
    target, draw = people[0].embedding.numpy(), studio.draw

    class Recogniser:
        """The likeness of the picture that is given, and of each try."""

        def embed(self, image: Image.Image, landmarks: Any) -> np.ndarray:
            return target * np.float32([0.5, 0.4, 0.6, 0.9][len(asked)])

    def drawn(request: Request) -> Any:
        asked.append(request)
        return draw(request)

    monkeypatch.setattr(studio.analyzer, "recogniser", Recogniser())
    monkeypatch.setattr(studio, "draw", drawn)
    made = studio.repair(picture, people[0], seed=5, below=below, tries=tries)
    (repaired,) = made.repairs[0]
    assert (repaired["tries"], repaired["likeness_after"]) == (tried, pytest.approx(after))
    assert made.scores == [pytest.approx(max(after, 0.5))]
    assert [request.seed for request in asked] == [(5 + number,) for number in range(tried)]
    assert not any(difference(request.image, picture) for request in asked[:2]), "the first try was worse"
    assert all(difference(request.image, picture) for request in asked[2:])


def test_a_bystander_s_face_stays_beside_one_person_s_that_is_drawn_anew(
    studio: ConsistentIDPipeline, people: list[Identity], all_small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, bystander = face(10, 20, 64, 84), face(66, 24, 96, 80)
    monkeypatch.setattr(studio.analyzer, "detector", Fixed([one, bystander]))
    assert np.asarray(face_mask(one, TWO.size))[50, 67], "alone it would reach into the bystander's face"
    target = people[0].embedding.numpy()

    class Recogniser:
        """Takes every face for the person's, so that what is drawn anew is kept."""

        def embed(self, image: Image.Image, landmarks: Any) -> np.ndarray:
            return target

    monkeypatch.setattr(studio.analyzer, "recogniser", Recogniser())
    made = studio.repair(TWO, people[0], "a woman", seed=5)
    assert [(repaired["person"], repaired["kept"]) for repaired in made.repairs[0]] == [(0, True)]
    assert difference(made.images[0], TWO)
    assert np.array_equal(pixels(made.images[0])[24:80, 66:96], pixels(TWO)[24:80, 66:96])


def test_large_faces_and_like_ones_are_left_alone(studio: ConsistentIDPipeline, people: list[Identity]) -> None:
    picture = tiny.portrait()
    (found,) = studio.analyzer.detect(picture)
    assert not is_small(found, studio.sampler.native_size)
    made = studio.repair(picture, people[0])
    assert made.repairs == [[]]
    assert difference(made.images[0], picture) == 0
    assert len(studio.repair(picture, people[1], below=1.0, seed=5).repairs[0]) == 1
    with pytest.raises(NoFaceError, match="nothing to repair"):
        studio.repair(Image.new("RGB", (64, 64), "white"), people[0])


def test_a_repair_is_not_asked_for_what_it_does_not_do(studio: ConsistentIDPipeline, people: list[Identity]) -> None:
    for wrong, words in (
        ({"mask": Image.new("L", TWO.size, 255)}, "mask is about drawing all of a picture"),
        ({"strength": 0.5}, "strength is about"),
        ({"width": 64}, "width is about"),
        ({"num_images_per_prompt": 2}, "ask for several pictures"),
        ({"prompt": ["a", "b"]}, "ask for several pictures"),
    ):
        with pytest.raises(ArgumentError, match=words):
            studio.repair(TWO, people[0], **wrong)
    with pytest.raises(ArgumentError, match="image is missing"):
        studio.repair_request(Request(people[0], "a woman", repair=True))


def test_each_of_several_people_is_repaired_in_their_place(
    studio: ConsistentIDPipeline, people: list[Identity], all_small: None
) -> None:
    picture = TWO
    made = studio.repair(picture, people, regions=[RIGHT, LEFT], person_prompts=["a man", "a woman"], seed=5)
    boxes = {repaired["person"]: repaired["box"] for repaired in made.repairs[0]}
    assert set(boxes) == {0, 1}
    assert boxes[0][0] > 64 > boxes[1][2]


@pytest.mark.filterwarnings("ignore:128x128 pixels are far from")
def test_repair_follows_a_request(
    studio: ConsistentIDPipeline, people: list[Identity], all_small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = ONE
    (found,) = studio.analyzer.detector.detect(picture)
    monkeypatch.setattr(studio.analyzer, "detector", Fixed([found]))
    plain = studio(people[0], "a woman", seed=5, width=128, height=128)
    mended = studio(people[0], "a woman", seed=5, width=128, height=128, repair=True)
    assert plain.repairs == []
    assert len(mended.repairs[0]) == 1
    outside = np.asarray(face_mask(found, (128, 128))) == 0
    assert np.array_equal(pixels(mended.images[0])[outside], pixels(plain.images[0])[outside])
    wide = Request(people[0], "a woman", width=256, height=64)
    close = wide.close_up(0, "a woman", 5, picture, face_mask(found, picture.size), 0.5)
    width, height = studio.sampler.native_size
    across, down = studio.sampler.canvas(close, close.settings(studio.preset.settings))[1]
    assert across * down <= 1.1 * width * height, "at the base's own size, whatever that of the picture is"


@pytest.mark.parametrize("appears", [True, False])
def test_whoever_is_missing_is_drawn_in_their_place(
    studio: ConsistentIDPipeline, people: list[Identity], monkeypatch: pytest.MonkeyPatch, appears: bool
) -> None:
    call: dict[str, Any] = {"seed": 3, "regions": [LEFT, RIGHT], "person_prompts": ["a woman", ""]}
    plain = studio(people, PROMPT, **call).images[0]
    there, missing = face(4, 8, 28, 44), face(36, 10, 60, 46)

    class Detector:
        """Finds the left face in the picture as it is drawn first, and both in any other, if the second appears."""

        def detect(self, image: Image.Image) -> list[Detection]:
            return [there, missing] if appears and difference(image, plain) else [there]

    asked, draw = [], studio.draw
    monkeypatch.setattr(studio, "draw", lambda request: (asked.append(request), draw(request))[1])
    monkeypatch.setattr(studio.analyzer, "detector", Detector())
    assert math.isnan(studio(people, PROMPT, **call).scores[0])
    made = studio(people, PROMPT, **call, repair=True, repair_tries=2)
    (drawn,) = made.repairs[0]
    mask = place_mask(Regions.read([LEFT, RIGHT]), 1, plain.size, [there])
    assert (drawn["person"], drawn["box"], drawn["kept"]) == (1, list(mask.getbbox()), appears)
    assert math.isnan(drawn["likeness_before"])
    assert math.isnan(drawn["likeness_after"]) is math.isnan(made.scores[0]) is not appears
    assert drawn["tries"] == (1 if appears else 2)
    changed = np.abs(pixels(made.images[0]) - pixels(asked[2].image)).max(axis=2)
    assert not changed[np.asarray(mask) == 0].any()
    assert bool(changed.any()) is appears
    for number, request in enumerate(asked[2:]):  # both people as they were asked for, from other seeds
        assert (request.people, request.prompt, request.seed) == (tuple(people), PROMPT, (4 + number,))
        assert request.person_prompts == ("a woman", "")
        assert request.places.given() == [list(LEFT), list(RIGHT)]


def test_nobody_is_drawn_into_a_picture_from_elsewhere(
    studio: ConsistentIDPipeline, people: list[Identity], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(studio.analyzer, "detector", Fixed([face(4, 20, 50, 84)]))
    made = studio.repair(TWO, people, regions=[LEFT, RIGHT], seed=5)
    assert made.repairs == [[]]
    assert difference(made.images[0], TWO) == 0


def test_the_place_of_a_missing_person_leaves_out_faces() -> None:
    mask = np.asarray(place_mask(Regions.read([LEFT, RIGHT]), 1, (100, 100), [face(40, 10, 60, 60)]))
    assert mask[80, 70] == mask[30, 80] == 255
    assert 0 < mask[80, 48] < mask[80, 52] < 255, "its edge is soft"
    assert not mask[:, :38].any()
    assert not mask[10:60, 40:60].any()


def test_a_part_is_drawn_anew_with_what_is_said_of_those_in_it(people: list[Identity]) -> None:
    call: dict[str, Any] = {"person_prompts": ["a woman", "a man"], "person_scales": [0.5, 1.0], "repair": True}
    request = Request(people, PROMPT, control=Image.new("RGB", (60, 41)), num_images_per_prompt=3, **call)
    image, mask = Image.new("RGB", (64, 40)), Image.new("L", (64, 40), 255)
    part = request.place_anew([1], Regions.read([LEFT, RIGHT]), "two friends", 5, image, mask, 0.7)
    assert (part.people, part.person_prompts, part.person_scales) == ((people[1],), ("a man",), (1.0,))
    assert (part.rows(), part.strength, part.repair) == ([("two friends", 5)], 0.7, False)
    assert part.places.given() == [list(RIGHT)]
    assert part.control.size == image.size, "its shape differed by rounding alone"


def test_only_who_has_a_place_in_it_is_drawn_with_a_part_of_a_picture() -> None:
    places = Regions.read([(0.0, 0.0, 0.2, 1.0), (0.3, 0.0, 0.5, 0.5), (0.8, 0.0, 1.0, 1.0)])
    assert places.inside((0, 0, 40, 100), (100, 100)) == [0, 1]
    assert places.inside((30, 60, 100, 100), (100, 100)) == [2]


def test_other_faces_are_left_out_of_the_mask() -> None:
    one, other = face(10, 10, 50, 60), face(52, 10, 90, 60)
    mask = np.asarray(face_mask(one, (100, 100), [other]))
    assert mask[35, 30] == 255
    assert not mask[10:60, 53:90].any()
    assert mask[35, 51] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"regions": [LEFT]}, "2 people and 1 regions"),
        ({"regions": [LEFT, (0, 0, 2, 1)]}, r"regions\[1\]=\(0, 0, 2, 1\) lies outside the picture"),
        ({"person_prompts": "a woman"}, "person_prompts='a woman' is not a list"),
        ({"person_prompts": ["a woman"]}, "2 people and 1 person_prompts"),
        ({"person_prompts": ["a woman", 3]}, "person_prompts has 3, which is not a text"),
        ({"person_scales": [1.0, -1.0]}, "person_scales=-1.0 is not allowed"),
        ({"merge_at": [0.5, 2.0]}, "merge_at=2.0 is not allowed"),
        ({"face_text": ["a", "b", "c"]}, "2 people and 3 face_text"),
        ({"face_text": ["a", None], "parts": [{"eyes": "green"}, None]}, "face_text and parts exclude one another"),
        ({"base_ratio": 1.1}, "base_ratio=1.1 is not allowed"),
        ({"base_ratio": [0.5]}, "2 people and 1 base_ratio"),
        ({"regions_end": 0}, "regions_end=0 is not allowed"),
        ({"repair": "yes"}, "repair='yes' is not allowed"),
        ({"repair_below": 0.5}, "repair_below says which faces repair draws anew"),
        ({"repair": True, "repair_below": 7}, "repair_below=7 is not allowed"),
        ({"repair_tries": 2}, "repair_tries says how often repair draws a face"),
        ({"repair": True, "repair_tries": 0}, "repair_tries=0 is not allowed; give an integer from 1 to 10"),
        ({"identity": []}, "identity is an empty list"),
        ({"identity": ["ada.png"]}, "a str is no identity"),
        ({"base_alone": True, "regions": [LEFT, RIGHT]}, "base_alone draws nobody in particular; leave out regions"),
    ],
)
def test_bad_arguments_are_named(people: list[Identity], arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        Request(**({"identity": people, "prompt": PROMPT} | arguments))


def test_cached_texts_know_their_places(studio: ConsistentIDPipeline, people: list[Identity]) -> None:
    texts: Callable[..., torch.Tensor] = lambda regions: studio(people, PROMPT, seed=3, regions=regions).images[0]  # noqa: E731
    first = texts([LEFT, RIGHT])
    assert difference(texts([LEFT, (0.6, 0.0, 1.0, 1.0)]), first)
    assert difference(texts([LEFT, RIGHT]), first) == 0

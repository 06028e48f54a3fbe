"""What captions tell is true; what is not to be seen is not told; and there are many ways to say it."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from consistentid.drawn.portraits import People, Scenes, describe, sample_people, sample_scenes
from consistentid.drawn.portraits.captions import part_phrases
from consistentid.drawn.portraits.people import BEARDS, EYES, HAIR, HAIRSTYLES, HIDES_EARS
from consistentid.drawn.portraits.scenes import (
    ARMS,
    BACKGROUNDS,
    CLOTHES,
    COLORS,
    EXPRESSIONS,
    FRAMINGS,
    GLASSES,
    HATS,
    STYLES,
    clothes_seen,
    framing,
)

ROWS = 600
PLACES = {
    "studio": "studio",
    "forest": "forest|woods|trees",
    "beach": "beach|sea",
    "mountains": "mountains",
    "city at night": "city",
    "starry night": "stars|starry",
    "snow": "snow|winter",
    "sunset": "sunset",
}
MOODS = {
    "neutral": "calm|neutral|serious",
    "smiling": "smil(e|es|ing)",
    "laughing": "laugh(ing)?",
    "sad": "sad",
    "angry": "angry",
    "surprised": "surprised",
}
DRAWN_AS = {"ink": "ink|comic", "watercolor": "watercolor", "pencil": "pencil", "poster": "poster"}
COLOR = "|".join(COLORS)


@pytest.fixture(scope="module")
def tables() -> tuple[People, Scenes]:
    keys = [(i, 1) for i in range(ROWS)]
    return sample_people(ROWS, split="validation"), sample_scenes(keys, split="validation")


@pytest.fixture(scope="module")
def told(tables: tuple[People, Scenes]) -> list[tuple[str, str]]:
    captions = [describe(*tables, row, np.random.default_rng(row)) for row in range(ROWS)]
    return [(c.image, c.face) for c in captions]


def words(pattern: str, text: str) -> bool:
    return re.search(rf"\b({pattern})\b", text) is not None


def test_hats_and_their_colours(tables, told) -> None:
    scenes = tables[1]
    for row, (image, _) in enumerate(told):
        hat, color = HATS[scenes.hat[row]], list(COLORS)[scenes.hat_color[row]]
        assert {h for h in HATS[1:] if words(h, image)} == ({hat} - {"none"}), image
        if hat not in ("none", "crown"):
            assert words(f"an? {color} {hat}", image), image


def test_glasses(tables, told) -> None:
    for row, (image, _) in enumerate(told):
        kind = GLASSES[tables[1].glasses[row]]
        assert words("glasses|sunglasses", image) == (kind != "none"), image
        assert words("sunglasses", image) == (kind == "sunglasses"), image
        if words("(round|square) glasses", image):
            assert kind in image, image


def test_clothes_and_their_colours(tables, told) -> None:
    found = 0
    seen = clothes_seen(tables[1])
    for row, (image, _) in enumerate(told):
        named = re.findall(rf"\b({COLOR}) ({'|'.join(CLOTHES)})\b", image)
        truth = (list(COLORS)[tables[1].clothes_color[row]], CLOTHES[tables[1].clothes[row]])
        assert named in ([], [truth]), image
        assert seen[row] or not named, image
        found += len(named)
    assert found > 0.65 * seen.sum()


def test_framings_are_told(tables, told) -> None:
    for row, (image, _) in enumerate(told):
        named = {name for name in FRAMINGS if name != "portrait" and words(name, image)}
        assert named == {framing(float(tables[1].scale[row]))} - {"portrait"}, image


def test_arms_are_told_where_they_are_seen(tables, told) -> None:
    count = 0
    for row, (image, _) in enumerate(told):
        shown = framing(float(tables[1].scale[row])) in ("half-length", "full-length")
        for arms, pattern in (("hips", "hands on hips"), ("waving", "waving")):
            if words(pattern, image):
                assert shown, image
                assert ARMS[tables[1].arms[row]] == arms, image
                count += 1
    assert count > 20


def test_jewellery_is_told_only_where_worn(tables, told) -> None:
    for row, (image, _) in enumerate(told):
        assert not words("earrings", image) or tables[1].earrings[row]
        assert not words("necklace", image) or tables[1].necklace[row]


def test_backgrounds(tables, told) -> None:
    silent = 0
    for row, (image, _) in enumerate(told):
        place, color = BACKGROUNDS[tables[1].background[row]], list(COLORS)[tables[1].background_color[row]]
        named = {p for p, pattern in PLACES.items() if words(pattern, image)}
        walls = re.findall(rf"({COLOR}) (?:background|wall\b|striped wallpaper|wallpaper)", image)
        if place in PLACES:
            assert named <= {place}, image
            assert not walls, image
        else:
            assert not named, image
            assert walls in ([], [color]), image
            assert words("wallpaper", image) <= (place == "wallpaper"), image
        silent += not named and not walls
    assert 0 < silent < 0.15 * ROWS


def test_styles(tables, told) -> None:
    for row, (image, _) in enumerate(told):
        style = STYLES[tables[1].style[row]]
        assert {s for s, pattern in DRAWN_AS.items() if words(pattern, image)} == ({style} & set(DRAWN_AS)), image
        assert not words("flat|simple", image) or style == "flat", image


def test_expressions(tables, told) -> None:
    for row, (image, _) in enumerate(told):
        mood = EXPRESSIONS[tables[1].expression[row]]
        named = {m for m, pattern in MOODS.items() if words(pattern, image)}
        assert named == {mood} or (mood == "neutral" and not named), image


def test_the_person(tables, told) -> None:
    people = tables[0]
    for row, (image, _) in enumerate(told):
        assert not words("man" if people.woman[row] else "woman", image), image
        assert not words("old", image) or people.age[row] > 0.7, image
        assert not words("young", image) or people.age[row] < 0.15, image
        style, color = HAIRSTYLES[people.hairstyle[row]], list(HAIR)[people.hair_color[row]]
        for named in re.findall(rf"\b({'|'.join(HAIRSTYLES)}) ((?:dark )?\w+) hair\b", image):
            assert named == (style, color), image
        for named in re.findall(r"\ban? ((?:dark )?\w+) (bun|mohawk)\b", image):
            assert named == (color, style), image
        assert not words("bald", image) or style == "bald", image
        beards = {b for b in BEARDS[1:] if words(b, image)}
        assert beards <= {BEARDS[people.beard[row]]}, image
    assert sum(words("hair|bun|mohawk|bald", image) for image, _ in told) > 0.3 * ROWS


def test_parts_that_are_seen_are_told_and_no_others(tables, told) -> None:
    people, scenes = tables
    for row, (_, face) in enumerate(told):
        seen = {"face", "nose", "mouth"}
        if GLASSES[scenes.glasses[row]] != "sunglasses":
            seen.add("eyes")
            color = list(EYES)[people.eye_color[row]]
            assert words(f"{color} eyes|eyes are ((big|narrow) )?{color}", face), face
        if HAIRSTYLES[people.hairstyle[row]] not in HIDES_EARS:
            seen.add("ears")
        assert {part for part in ("face", "eyes", "ears", "nose", "mouth") if words(part, face)} == seen, face
        assert words("she|her", face.lower()) <= bool(people.woman[row]), face
        assert words("he|his", face.lower()) <= (not people.woman[row]), face
        assert not words("freckled", face) or people.freckles[row], face


@pytest.mark.parametrize(
    ("trait", "values", "expected"),
    [
        ("eye_height", (0.08, 0.11, 0.15), ("narrow green eyes", "green eyes", "big green eyes")),
        ("ear_size", (0.15, 0.2, 0.25), ("small ears", "even ears", "big ears")),
        ("nose_width", (0.1, 0.15, 0.2), ("a narrow nose", "a straight nose", "a wide nose")),
        ("nose_length", (0.27, 0.35, 0.45), ("a short nose", "a straight nose", "a long nose")),
        ("mouth_width", (0.2, 0.26, 0.35), ("a small mouth", "a soft mouth", "a wide mouth")),
        ("upper_lip", (0.0, 0.04, 0.07), ("a thin mouth", "a soft mouth", "a full mouth")),
        ("face_width", (0.6, 0.75, 0.9), ("a long face", "an oval face", "a round face")),
        ("squareness", (2.0, 2.4, 2.8), ("an oval face", "an oval face", "a square face")),
    ],
)
def test_words_follow_the_traits(trait: str, values: tuple[float, ...], expected: tuple[str, ...]) -> None:
    usual = {"eye_color": 3, "eye_width": 0.2, "nose_length": 0.35, "nose_width": 0.15, "mouth_width": 0.26}
    usual |= {"upper_lip": 0.04, "lower_lip": 0.06, "face_width": 0.75, "face_height": 1.0, "squareness": 2.0}
    people = sample_people(3)
    people = replace(people, **{k: np.full_like(getattr(people, k), v) for k, v in usual.items()})
    people = replace(people, **{trait: np.asarray(values, np.float32)})
    part = expected[0].rsplit(" ", 1)[1]
    assert tuple(part_phrases(people, row)[part] for row in range(3)) == expected


def test_wording_varies_and_repeats_by_seed(tables) -> None:
    for row in range(4):
        captions = [describe(*tables, row, np.random.default_rng(seed)) for seed in range(40)]
        assert captions == [describe(*tables, row, np.random.default_rng(seed)) for seed in range(40)]
        assert len({c.image for c in captions}) > 20
        assert len({c.face for c in captions}) > 8


def test_an_anonymous_caption_tells_the_scene_alone(tables) -> None:
    unnamed = [describe(*tables, row, np.random.default_rng(row), anonymous=True) for row in range(ROWS)]
    assert all("a person" in c.image for c in unnamed)
    assert not any(
        words(f"wom[ae]n|man|old|young|hair|bun|mohawk|head|{'|'.join(BEARDS[1:])}", c.image) for c in unnamed
    )
    for caption, hat in zip(unnamed, tables[1].hat, strict=True):  # what is worn is told as ever
        assert hat == 0 or words(HATS[hat], caption.image)
    assert len({c.image for c in unnamed}) > ROWS / 2


def test_sentences_are_well_formed(told) -> None:
    for image, face in told:
        for text in (image, face):
            assert not re.search(r"  | ,|,,|\.\.|, ?$|\ba [aeio]|\ban [^aeiou]", text), text
        assert not image.endswith(".")
        assert face[0].isupper()
        assert face.endswith(".")

"""Words for drawn portraits: a caption of the picture and a sentence about the parts of the face.

Both vary in wording and in how much they tell, by the random generator given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from consistentid.drawn.portraits.groups import Groups
from consistentid.drawn.portraits.people import BEARDS, EYES, HAIR, HAIRSTYLES, HIDES_EARS, People
from consistentid.drawn.portraits.scenes import (
    ARMS,
    BACKGROUNDS,
    CLOTHES,
    COLORS,
    EXPRESSIONS,
    GLASSES,
    HATS,
    STYLES,
    Scenes,
    clothes_seen,
    framing,
)
from consistentid.faces.caption import Caption

PART_KINDS = {
    "face": ("round", "long", "square", "oval"),
    "ears": ("big", "small", "even"),
    "nose": ("wide", "narrow", "long", "short", "straight"),
    "mouth": ("wide", "small", "full", "thin", "soft"),
}
"""What a caption says of parts whose kinds have names."""

EXPRESSION_WORDS = {
    "neutral": ("with a calm face", "with a neutral expression", "looking serious"),
    "smiling": ("smiling", "with a smile", "who smiles"),
    "laughing": ("laughing", "with a big laugh", "laughing happily"),
    "sad": ("looking sad", "with a sad face", "who is sad"),
    "angry": ("looking angry", "with an angry face", "who is angry"),
    "surprised": ("looking surprised", "with a surprised face", "surprised"),
}
BACKGROUND_WORDS = {
    "studio": ("in a studio", "in front of a studio backdrop"),
    "forest": ("in a forest", "in the woods", "among trees"),
    "beach": ("on a beach", "at the beach", "by the sea"),
    "mountains": ("in the mountains", "in front of mountains"),
    "city at night": ("in a city at night", "in the city at night"),
    "starry night": ("under a starry night sky", "under the stars"),
    "snow": ("in the snow", "in falling snow", "in winter"),
    "sunset": ("at sunset", "in front of a sunset"),
}
STYLE_WORDS = {
    "flat": ("a flat drawing of", "a simple drawing of"),
    "shaded": ("a portrait of", "a painting of"),
    "ink": ("an ink drawing of", "a comic of"),
    "watercolor": ("a watercolor of", "a watercolor painting of"),
    "pencil": ("a pencil sketch of", "a pencil drawing of"),
    "poster": ("a poster of", "a colorful poster of"),
}
FRAMING_WORDS = {
    "close-up": "a close-up of",
    "half-length": "a half-length picture of",
    "full-length": "a full-length picture of",
}
ARM_WORDS = {"hips": ("with hands on hips",), "waving": ("waving", "waving a hand")}
PLACES = {
    1: ("",),
    2: ("on the left", "on the right"),
    3: ("on the left", "in the middle", "on the right"),
}
"""Number of people -> where each of them stands, from left to right."""


@dataclass(frozen=True)
class GroupCaption:
    """What a picture of several people shows.

    Attributes:
        image: the whole picture, telling who stands where.
        people: of each person, from left to right: `image` is a phrase about them alone, without place, style and
            background ("a man with a beard in a red hat"), `face` a sentence about the parts of their face.
        places: where each of them stands, in the words of `image`; from left to right.
        scene: what surrounds them ("on a beach"); empty where `image` does not tell it.
    """

    image: str
    people: tuple[Caption, ...]
    places: tuple[str, ...]
    scene: str


def describe(people: People, scenes: Scenes, row: int, rng: np.random.Generator, *, anonymous: bool = False) -> Caption:
    """Caption of a row. Parts of the face that glasses or hair hide are not told of.

    Where it is ``anonymous``, its words for the scene call the person a person, whatever their sex, age and hair.
    """
    return Caption(_image(people, scenes, row, rng, anonymous=anonymous), facial_sentence(people, scenes, row, rng))


def noun(people: People, row: int) -> str:
    """What the person is called: woman or man, with the age where it is marked."""
    kind = "woman" if people.woman[row] else "man"
    age = people.age[row]
    return f"old {kind}" if age > 0.72 else f"young {kind}" if age < 0.1 else kind


def hair_words(people: People, row: int) -> str:
    """Color and style of the hair: "long red hair", "a blonde bun", "a bald head"."""
    color, style = list(HAIR)[people.hair_color[row]], HAIRSTYLES[people.hairstyle[row]]
    if style == "bald":
        return "a bald head"
    if style in ("bun", "mohawk"):
        return f"a {color} {style}"
    return f"{style} {color} hair"


def _one(rng: np.random.Generator, options: Sequence[str]) -> str:
    return options[int(rng.integers(len(options)))]


def article(words: str) -> str:
    """Put "a" or "an" before words."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _image(people: People, scenes: Scenes, row: int, rng: np.random.Generator, *, anonymous: bool) -> str:
    who = _who(people, row, rng, hair=0.4, beard=0.35, anonymous=anonymous)
    opening = _opening(scenes, row, rng)
    if opening:
        who = f"{opening} {who}"
    worn = _worn(scenes, row, rng, ("wearing", "in", "with"), clothes=0.75)
    clauses = [words for words in (worn, *_doing(scenes, row, rng, calm=0.4)) if words]
    if rng.random() < 0.93:
        clauses.append(_place(scenes, row, rng))
    if rng.random() < 0.3:
        rng.shuffle(clauses)
    return who + (" " if rng.random() < 0.7 else ", ") + ", ".join(clauses) if clauses else who


def describe_group(groups: Groups, picture: int, rng: np.random.Generator, *, anonymous: bool = False) -> GroupCaption:
    """Caption of a picture of several people. Hats and glasses are always told, hair, clothes and moods often.

    For an ``anonymous`` one see `describe`.
    """
    people, scenes = groups.people, groups.scenes
    rows = range(picture * groups.count, (picture + 1) * groups.count)
    places = PLACES[groups.count]
    told = []
    for row in rows:
        who = _who(people, row, rng, hair=0.55, beard=0.5, anonymous=anonymous)
        clauses = (_worn(scenes, row, rng, clothes=0.5), *_doing(scenes, row, rng, calm=0.1))
        told.append(Caption(" ".join([who, *filter(None, clauses)]), facial_sentence(people, scenes, row, rng)))
    if rng.random() < 0.5 or groups.count == 1:
        each = [f"{words.image} {place}".strip() for words, place in zip(told, places, strict=True)]
    else:
        each = [f"{place} {words.image}" for words, place in zip(told, places, strict=True)]
    opening = _style_words(scenes, rows[0], rng)
    scene = _place(scenes, rows[0], rng) if rng.random() < 0.93 else ""
    image = _listed(each) if rng.random() < 0.6 else ", ".join(each)
    image = f"{opening} {image}" if opening and not image.startswith(("on ", "in ")) else image
    if opening and not image.startswith(opening):
        image = f"{opening} {'two' if groups.count == 2 else 'three'} people: {image}"
    return GroupCaption(f"{image}, {scene}" if scene else image, tuple(told), places, scene)


def _who(people: People, row: int, rng: np.random.Generator, *, hair: float, beard: float, anonymous: bool) -> str:
    """The person, with hair and beard by chance; or nothing of all that."""
    if anonymous:
        return "a person"
    who = article(noun(people, row)) if rng.random() < 0.9 else "a person"
    features = [hair_words(people, row)] if rng.random() < hair else []
    if rng.random() < beard and people.beard[row]:
        features.append(article(BEARDS[people.beard[row]]))
    return f"{who} with {_listed(features)}" if features else who


def _style_words(scenes: Scenes, row: int, rng: np.random.Generator) -> str:
    style = STYLES[scenes.style[row]]
    return _one(rng, STYLE_WORDS[style]) if style not in ("flat", "shaded") or rng.random() < 0.5 else ""


def _opening(scenes: Scenes, row: int, rng: np.random.Generator) -> str:
    """Style and framing: "an ink drawing of", "a close-up of", "a full-length watercolor of"."""
    style, shown = _style_words(scenes, row, rng), framing(float(scenes.scale[row]))
    if shown == "portrait":
        return style
    return article(f"{shown} {style.split(' ', 1)[1]}") if style else FRAMING_WORDS[shown]


def _worn(
    scenes: Scenes, row: int, rng: np.random.Generator, verbs: Sequence[str] = ("wearing", "in"), *, clothes: float
) -> str:
    """Hat and glasses, and by chance clothes and jewellery, as far as the picture shows them."""
    colors = list(COLORS)
    worn = []
    hat = HATS[scenes.hat[row]]
    if hat == "crown":
        worn.append(_one(rng, ("a crown", "a golden crown")))
    elif hat != "none":
        worn.append(article(f"{colors[scenes.hat_color[row]]} {hat}"))
    if scenes.glasses[row]:
        worn.append(GLASSES[scenes.glasses[row]] if rng.random() < 0.7 or scenes.glasses[row] == 3 else "glasses")
    seen = bool(clothes_seen(scenes)[row])
    if rng.random() < clothes and seen:
        worn.append(article(f"{colors[scenes.clothes_color[row]]} {CLOTHES[scenes.clothes[row]]}"))
    if scenes.earrings[row] and rng.random() < 0.5:
        worn.append("earrings")
    if scenes.necklace[row] and rng.random() < 0.5 and seen:
        worn.append("a necklace")
    return f"{_one(rng, verbs)} {_listed(worn)}" if worn else ""


def _doing(scenes: Scenes, row: int, rng: np.random.Generator, *, calm: float) -> list[str]:
    """The expression, a neutral one by chance, and what the arms do where they are seen."""
    expression, arms = EXPRESSIONS[scenes.expression[row]], ARMS[scenes.arms[row]]
    told = [_one(rng, EXPRESSION_WORDS[expression])] if expression != "neutral" or rng.random() < calm else []
    if arms in ARM_WORDS and framing(float(scenes.scale[row])) in ("half-length", "full-length") and rng.random() < 0.7:
        told.append(_one(rng, ARM_WORDS[arms]))
    return told


def _place(scenes: Scenes, row: int, rng: np.random.Generator) -> str:
    background, color = BACKGROUNDS[scenes.background[row]], list(COLORS)[scenes.background_color[row]]
    if background == "plain":
        return _one(rng, (f"on {article(color)} background", f"in front of {article(color)} wall"))
    if background == "wallpaper":
        return _one(rng, (f"in front of {color} striped wallpaper", f"in a room with {color} wallpaper"))
    return _one(rng, BACKGROUND_WORDS[background])


def part_kinds(people: People, row: int) -> dict[str, str]:
    """The kind of each part, of `PART_KINDS`, and the colour of the eyes, of `EYES`."""
    width = people.face_width[row] / people.face_height[row]
    square = people.squareness[row] > 2.5
    face = "round" if width > 0.82 else "long" if width < 0.68 else "square" if square else "oval"
    nose_width, length = people.nose_width[row], people.nose_length[row]
    nose = "wide" if nose_width > 0.17 else "narrow" if nose_width < 0.12 else ""
    nose = nose or ("long" if length > 0.4 else "short" if length < 0.31 else "straight")
    fullness, mouth_width = people.upper_lip[row] + people.lower_lip[row], people.mouth_width[row]
    mouth = "wide" if mouth_width > 0.31 else "small" if mouth_width < 0.22 else ""
    mouth = mouth or ("full" if fullness > 0.12 else "thin" if fullness < 0.065 else "soft")
    ears = "big" if people.ear_size[row] > 0.22 else "small" if people.ear_size[row] < 0.17 else "even"
    return {"face": face, "eyes": list(EYES)[people.eye_color[row]], "ears": ears, "nose": nose, "mouth": mouth}


def part_phrases(people: People, row: int) -> dict[str, str]:
    """A phrase for each part: {"face": "a round face", "eyes": "big green eyes", ...}."""
    kinds = part_kinds(people, row)
    area = people.eye_width[row] * people.eye_height[row]
    size = "big " if area > 0.026 else "narrow " if people.eye_height[row] < 0.09 else ""
    return {
        "face": article(f"{kinds['face']} face"),
        "eyes": f"{size}{kinds['eyes']} eyes",
        "ears": f"{kinds['ears']} ears",
        "nose": article(f"{kinds['nose']} nose"),
        "mouth": article(f"{kinds['mouth']} mouth"),
    }


def facial_sentence(people: People, scenes: Scenes | None, row: int, rng: np.random.Generator) -> str:
    """One or two sentences with a phrase for each visible part: face, eyes, ears, nose, mouth."""
    she, her = ("She", "Her") if people.woman[row] else ("He", "His")
    told = part_phrases(people, row)
    if people.freckles[row] and rng.random() < 0.6:
        told["face"] = "a freckled " + told["face"].split(" ", 1)[1]
    if scenes is not None and GLASSES[scenes.glasses[row]] == "sunglasses":
        del told["eyes"]
    if HAIRSTYLES[people.hairstyle[row]] in HIDES_EARS:
        del told["ears"]
    form = rng.random()
    if form < 0.45:
        phrases = list(told.values())
        if rng.random() < 0.5:
            rng.shuffle(phrases)
        return _one(rng, (f"{she} has ", "The person has ")) + _listed(phrases) + "."
    nouns = {
        part: words.removesuffix(f" {part}").removeprefix("a ").removeprefix("an ") for part, words in told.items()
    }
    if form < 0.75:
        clauses = [
            f"{her.lower()} {part} {'are' if part.endswith('s') else 'is'} {words}" for part, words in nouns.items()
        ]
        return her + ", ".join(clauses).removeprefix(her.lower()) + "."
    return f"{her} face is {nouns['face']}. {she} has {_listed(list(told.values())[1:])}."


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]

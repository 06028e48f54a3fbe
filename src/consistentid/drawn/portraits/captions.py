"""Words for drawn portraits: a caption of the picture and a sentence about the parts of the face.

Both vary in wording and in how much they tell, by the random generator given.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from consistentid.drawn.portraits.people import BEARDS, EYES, HAIR, HAIRSTYLES, HIDES_EARS, People
from consistentid.drawn.portraits.scenes import BACKGROUNDS, CLOTHES, COLORS, EXPRESSIONS, GLASSES, HATS, STYLES, Scenes
from consistentid.faces.caption import Caption

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


def describe(people: People, scenes: Scenes, row: int, rng: np.random.Generator) -> Caption:
    """Caption of a row. Parts of the face that glasses or hair hide are not told of."""
    return Caption(_image(people, scenes, row, rng), facial_sentence(people, scenes, row, rng))


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


def _image(people: People, scenes: Scenes, row: int, rng: np.random.Generator) -> str:
    colors = list(COLORS)
    who = article(noun(people, row)) if rng.random() < 0.9 else "a person"
    if rng.random() < 0.4:
        who += f" with {hair_words(people, row)}"
    if rng.random() < 0.35 and people.beard[row]:
        who += f" and a {BEARDS[people.beard[row]]}" if " with " in who else f" with a {BEARDS[people.beard[row]]}"
    style = STYLES[scenes.style[row]]
    if style not in ("flat", "shaded") or rng.random() < 0.5:
        who = f"{_one(rng, STYLE_WORDS[style])} {who}"

    worn = []
    hat = HATS[scenes.hat[row]]
    if hat == "crown":
        worn.append(_one(rng, ("a crown", "a golden crown")))
    elif hat != "none":
        worn.append(article(f"{colors[scenes.hat_color[row]]} {hat}"))
    if scenes.glasses[row]:
        worn.append(GLASSES[scenes.glasses[row]] if rng.random() < 0.7 or scenes.glasses[row] == 3 else "glasses")
    if rng.random() < 0.75:
        worn.append(article(f"{colors[scenes.clothes_color[row]]} {CLOTHES[scenes.clothes[row]]}"))
    if scenes.earrings[row] and rng.random() < 0.5:
        worn.append("earrings")
    if scenes.necklace[row] and rng.random() < 0.5:
        worn.append("a necklace")
    clauses = []
    if worn:
        clauses.append(_one(rng, ("wearing ", "in ", "with ")) + _listed(worn))
    expression = EXPRESSIONS[scenes.expression[row]]
    if expression != "neutral" or rng.random() < 0.4:
        clauses.append(_one(rng, EXPRESSION_WORDS[expression]))
    background = BACKGROUNDS[scenes.background[row]]
    color = colors[scenes.background_color[row]]
    if background == "plain":
        place = _one(rng, (f"on {article(color)} background", f"in front of {article(color)} wall"))
    elif background == "wallpaper":
        place = _one(rng, (f"in front of {color} striped wallpaper", f"in a room with {color} wallpaper"))
    else:
        place = _one(rng, BACKGROUND_WORDS[background])
    if rng.random() < 0.93:
        clauses.append(place)
    if rng.random() < 0.3:
        rng.shuffle(clauses)
    return who + (" " if rng.random() < 0.7 else ", ") + ", ".join(clauses) if clauses else who


def part_phrases(people: People, row: int) -> dict[str, str]:
    """A phrase for each part: {"face": "a round face", "eyes": "big green eyes", ...}."""
    eyes = list(EYES)[people.eye_color[row]]
    area = people.eye_width[row] * people.eye_height[row]
    size = "big " if area > 0.026 else "narrow " if people.eye_height[row] < 0.09 else ""
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
    return {
        "face": article(f"{face} face"),
        "eyes": f"{size}{eyes} eyes",
        "ears": f"{ears} ears",
        "nose": article(f"{nose} nose"),
        "mouth": article(f"{mouth} mouth"),
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

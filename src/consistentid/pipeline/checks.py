"""The arguments of a sampling call, each checked once: functions that return a value as a `Request` keeps it.

Every error names the argument, the value and the remedy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any, Final

from PIL import Image

from consistentid.adapter.identity import Identity
from consistentid.adapter.people import by_part, check_part_scales, is_number
from consistentid.adapter.regions import Regions
from consistentid.errors import ArgumentError
from consistentid.files.images import read_photo
from consistentid.presets.settings import check_setting as check

PICTURES: Final = ("image", "mask", "control")
OF_EACH: Final = ("person_prompts", "person_scales", "merge_at", "base_ratio", "face_text", "parts", "part_scales")
"""What may be given of each person."""

MOST_TRIES: Final = 10
"""Of one face to be repaired."""


def check_identity(identity: Any) -> Identity | tuple[Identity, ...] | None:
    """One person, several, or none yet."""
    if identity is None or isinstance(identity, Identity):
        return identity
    people = identity if isinstance(identity, Sequence) and not isinstance(identity, str | bytes) else [identity]
    if not people:
        raise ArgumentError("{identity} is an empty list; give at least one person")
    for person in people:
        if not isinstance(person, Identity):
            raise ArgumentError(
                "{identity}: a {kind} is no identity; make one with identify(photo), or Identity.load(file)",
                kind=type(person).__name__,
            )
    return tuple(people)


def check_of_each(given: Mapping[str, Any], people: int, *, base_alone: bool) -> dict[str, Any]:
    """What is given of each person: as many as people, whose number "regions" tells where nobody is given yet."""
    number = people or None
    found: dict[str, Any] = {}
    if given["regions"] is not None:
        found["regions"] = Regions.read(given["regions"], number)
        number = len(found["regions"])
    for name in OF_EACH:
        value = given[name]
        if value is None or (name not in ("person_prompts", "person_scales") and not isinstance(value, tuple)):
            continue
        if isinstance(value, str) or not (isinstance(value, Sequence) or hasattr(value, "__len__")):
            raise ArgumentError(f"{{{name}}}={{value!r}} is not a list; give one with each person's", value=value)
        if number is not None and len(value) != number:
            raise ArgumentError(
                f"{{people}} people and {{found}} {{{name}}}; give one for each, in the same order",
                people=number,
                found=len(value),
            )
        found[name] = tuple(value)
    for text in found.get("person_prompts", ()):
        if not isinstance(text, str):
            raise ArgumentError("{person_prompts} has {value!r}, which is not a text; give '' for none", value=text)
    if "person_scales" in found:
        found["person_scales"] = tuple(check("scale", x, "person_scales") for x in found["person_scales"])
        if given["regions"] is None and number == 1:
            raise ArgumentError("{person_scales} weighs several people; of one set {scale}")
    if base_alone and found:
        raise ArgumentError(f"{{base_alone}} draws nobody in particular; leave out {{{next(iter(found))}}}")
    return found


def check_repair(repair: Any, below: Any, tries: Any, *, base_alone: bool) -> dict[str, Any]:
    """Which faces are drawn anew, and how often."""
    if not isinstance(repair, bool):
        raise ArgumentError("{repair}={value!r} is not allowed; give True or False", value=repair)
    if repair and base_alone:
        raise ArgumentError("{base_alone} draws nobody in particular, and {repair} somebody; leave out one of them")
    found: dict[str, Any] = {"repair_tries": _integer("repair_tries", tries, 1, MOST_TRIES)}
    if not repair and found["repair_tries"] > 1:
        raise ArgumentError("{repair_tries} says how often {repair} draws a face; give {repair}, too, or leave it out")
    if below is None:
        return found
    if not repair:
        raise ArgumentError("{repair_below} says which faces {repair} draws anew; give {repair}, too, or leave it out")
    if not is_number(below) or not -1 <= below <= 1:
        raise ArgumentError("{repair_below}={value!r} is not allowed; give a likeness from -1 to 1", value=below)
    return {**found, "repair_below": float(below)}


def check_setting(setting: str, value: Any, argument: str) -> Any:
    """A value that a preset's settings have, too, by their rules; some may be a list with each person's."""
    if setting in OF_EACH and isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(check(setting, each, argument) for each in value)
    return check(setting, value, argument)


def check_prompt(prompt: Any) -> str | tuple[str, ...]:
    """One text or several, none of them empty."""
    texts = [prompt] if isinstance(prompt, str) else list(prompt) if isinstance(prompt, Sequence) else [prompt]
    if not texts:
        raise ArgumentError("{prompt} is an empty list; give at least one text")
    for text in texts:
        if not isinstance(text, str):
            raise ArgumentError("{prompt}={value!r} is not a text; give one, or a list of texts", value=text)
        if not text.strip():
            raise ArgumentError(
                "{prompt}={value!r} is empty; describe the picture, as in 'a woman in a red hat'", value=text
            )
    return str(prompt) if isinstance(prompt, str) else tuple(map(str, texts))


def _integer(name: str, value: Any, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral) or not low <= int(value) <= high:
        raise ArgumentError(
            f"{{{name}}}={{value!r}} is not allowed; give an integer from {{low}} to {{high}}",
            value=value,
            low=low,
            high=high,
        )
    return int(value)


def check_counts(wanted: Any, best_of: Any, most: int) -> dict[str, int]:
    """How many pictures are made and kept of a prompt."""
    counts = {"num_images_per_prompt": _integer("num_images_per_prompt", wanted, 1, most)}
    if best_of is not None:
        counts["best_of"] = _integer("best_of", best_of, 1, most)
        if best_of < wanted:
            raise ArgumentError(
                "{best_of}={made} is less than {num_images_per_prompt}={wanted}; raise the one or lower the other",
                made=best_of,
                wanted=wanted,
            )
    return counts


def check_seed(seed: Any, prompts: int, made: int, below: int) -> int | tuple[int, ...] | None:
    """One seed, or one for each picture, all of them below a limit."""
    if seed is None:
        return None
    if isinstance(seed, str | bytes) or not (isinstance(seed, Sequence) or hasattr(seed, "__len__")):
        return _integer("seed", seed, 0, below - 1)
    seeds = tuple(_integer("seed", one, 0, below - 1) for one in seed)
    if len(seeds) != prompts * made:
        raise ArgumentError(
            "{seed} lists {found} seeds for {wanted} pictures; give one for each, or the first alone",
            found=len(seeds),
            wanted=prompts * made,
        )
    return seeds


def check_words(face_text: Any, parts: Any, part_scales: Any, *, base_alone: bool) -> dict[str, Any]:
    """What is said of faces."""
    if not isinstance(base_alone, bool):
        raise ArgumentError("{base_alone}={value!r} is not allowed; give True or False", value=base_alone)
    texts = tuple(face_text) if isinstance(face_text, list | tuple) else face_text
    words, scales = (
        tuple(map(read, given)) if isinstance(given, list | tuple) else read(given)
        for read, given in ((_parts, parts), (check_part_scales, part_scales))
    )
    for text in texts if isinstance(texts, tuple) else (texts,):
        if text is not None and not isinstance(text, str):
            raise ArgumentError("{face_text}={value!r} is not a text; give a sentence, or '' for none", value=text)
    number = len(texts) if isinstance(texts, tuple) else len(words) if isinstance(words, tuple) else 1
    for text, described in zip(_each(texts, number), _each(words, number), strict=False):  # lengths are compared later
        if text is not None and described:
            raise ArgumentError("{face_text} and {parts} exclude one another; write the parts into the sentence")
    if base_alone and (texts or words or scales):
        raise ArgumentError("{base_alone} draws nobody in particular; leave out {face_text}, {parts} and {part_scales}")
    return {"face_text": texts, "parts": words, "part_scales": scales}


def _each(value: Any, number: int) -> Sequence[Any]:
    return value if isinstance(value, tuple) else (value,) * number


def _parts(parts: Any) -> dict[str, str] | None:
    for part, text in by_part("parts", parts, {"eyes": "green eyes"}):
        if not isinstance(text, str) or not text.strip():
            raise ArgumentError(
                "{parts}: the words for {part}, {value!r}, are none; write for example {example!r}",
                part=part,
                value=text,
                example=f"green {part}",
            )
    return dict(parts) if parts else None


def check_pictures(image: Any, mask: Any, control: Any) -> dict[str, Image.Image | None]:
    """The pictures, read; the control picture in the size of the image."""
    if mask is not None and image is None:
        raise ArgumentError("{mask} says what of {image} is drawn anew; give {image}, too, or leave it out")
    start, area, follow = (
        None if picture is None else read_photo(picture, name)
        for name, picture in zip(PICTURES, (image, mask, control), strict=True)
    )
    if start and area and start.size != area.size:
        raise ArgumentError(
            "the {mask} is {found} pixels, the {image} {wanted}; give a mask of its size",
            found=_size(area),
            wanted=_size(start),
        )
    if start and follow:
        # the same shape but for rounding: squeezed into another one it would lead astray
        if not math.isclose(start.width / start.height, follow.width / follow.height, rel_tol=0.02):
            raise ArgumentError(
                "{control} is {found} pixels, the {image} {wanted}; give a control picture of its shape",
                found=_size(follow),
                wanted=_size(start),
            )
        follow = follow.resize(start.size, Image.Resampling.LANCZOS)
    return {"image": start, "mask": area and area.convert("L"), "control": follow}


def _size(image: Image.Image) -> str:
    return f"{image.width}x{image.height}"

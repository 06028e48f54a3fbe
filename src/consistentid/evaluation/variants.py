"""Ways of running one set of weights, for the ablations that need no training.

A name such as ``full@scale=0.5`` is a variant with one setting changed. Those of one variant lie on one curve.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Final, Literal

from consistentid.errors import InputError
from consistentid.faces.parts import PARTS
from consistentid.files.config import plain
from consistentid.files.documents import parse_yaml
from consistentid.presets.settings import Settings


@dataclass(frozen=True)
class Variant:
    """One way of running the model.

    Attributes:
        name: also a folder's name.
        about: a few words for tables.
        adapter: False = the base alone, as if it had never seen the person.
        settings: settings of the preset that differ.
        parts: how many facial parts are shown, in order of `PARTS`; by default all that are visible.
        face_text: the facial sentence: as always, none (so that nothing is fused), or a true one about the person.
    """

    name: str
    about: str
    adapter: bool = True
    settings: Mapping[str, Any] | None = None
    parts: int = len(PARTS)
    face_text: Literal["usual", "none", "true"] = "usual"


FULL: Final = Variant("full", "ConsistentID, as the preset has it")
TEXT_ONLY: Final = Variant("text_only", "the base alone, no identity", adapter=False)
OVERALL_ONLY: Final = Variant("overall_only", "ID tokens only, no facial words", face_text="none")
PARTS_ONLY: Final = Variant("parts_only", "facial parts only, no ID tokens", settings={"scale": 0.0})
_TRUE_SENTENCE: Final = Variant("true_sentence", "a true sentence about the face", face_text="true")

CURVES: Final[Mapping[str, tuple[str, tuple[float, ...]]]] = {
    "merge": ("merge_at", (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)),
    "scale": ("scale", (0.0, 0.25, 0.5, 0.75, 1.0, 1.25)),
    "parts": ("number of parts", (0, 1, 2, 3, 4, 5)),
}
"""Ablation -> what is varied, and its values."""

ABLATIONS: Final = ("components", "captions", *CURVES)

_WORDS: Final = {"merge_at": "merged after {:.0%} of the steps", "scale": "ID tokens at {:g}"}


def ablation(name: str, settings: Settings) -> dict[str, Variant]:
    """Value or name -> variant of an ablation; where a value is the preset's own, that is `FULL`.

    Raises:
        InputError: an unknown ablation.
    """
    if name == "components":
        return {v.name: v for v in (TEXT_ONLY, OVERALL_ONLY, PARTS_ONLY, FULL)}
    if name == "captions":
        return {"none": OVERALL_ONLY, "fixed sentence": FULL, "true sentence": _TRUE_SENTENCE}
    if name not in CURVES:
        raise InputError(f"unknown ablation {name!r}; known are {', '.join(ABLATIONS)}")
    return {f"{value:g}": _on_curve(name, value, settings) for value in CURVES[name][1]}


def find(name: str, settings: Settings) -> Variant:
    """The variant of that name, ``variant@setting=value`` for one with a setting of the preset changed.

    Raises:
        InputError: there is none, or no such setting.
    """
    kind, at, change = name.partition("@")
    known = {v.name: v for group in ABLATIONS for v in ablation(group, settings).values() if "@" not in v.name}
    if kind not in known:
        raise InputError(f"unknown variant {kind!r}; known are {', '.join(known)}")
    if not at:
        return known[kind]
    setting, _, value = change.partition("=")
    if setting not in (known_settings := [item.name for item in fields(settings)]):
        raise InputError(f"variant {name!r}: unknown setting {setting!r}; known are {', '.join(known_settings)}")
    number = plain(parse_yaml(value, f"variant {name!r}"))
    try:
        replace(settings, **{setting: number})
    except InputError as error:
        raise InputError(f"variant {name!r}: {error}") from None
    return _with(known[kind], setting, number)


def _with(variant: Variant, setting: str, value: Any) -> Variant:
    """The variant with one setting changed."""
    words = _WORDS.get(setting, f"{setting} {{}}").format(value)
    about = words if variant is FULL else f"{variant.about}, {words}"
    changed = {**(variant.settings or {}), setting: value}
    return replace(variant, name=f"{variant.name}@{setting}={value}", about=about, settings=changed)


def _on_curve(name: str, value: float, settings: Settings) -> Variant:
    if name == "parts":
        count = int(value)
        if count in (0, len(PARTS)):
            return FULL if count else OVERALL_ONLY
        return Variant(f"parts_{count}", f"{', '.join(PARTS[:count])} shown", parts=count)
    if (name, value) == ("scale", 0):
        return PARTS_ONLY
    setting = CURVES[name][0]
    return FULL if value == getattr(settings, setting) else _with(FULL, setting, value)

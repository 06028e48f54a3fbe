"""Lists of prompts with the settings they are meant for, and what a right picture of a prompt shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Any

from consistentid.drawn.portraits.captions import BACKGROUND_WORDS, EXPRESSION_WORDS, STYLE_WORDS, article
from consistentid.drawn.scene_reader import FACTORS
from consistentid.errors import InputError
from consistentid.files.config import build
from consistentid.files.documents import read_config
from consistentid.presets.preset import Preset

_FOLDER = Path(__file__).parent / "protocols"


@dataclass(frozen=True)
class Prompt:
    """One prompt.

    Attributes:
        text: the prompt.
        group: kind of prompt, such as "clothing".
        asks: factor of `FACTORS` -> value that a right picture shows; empty for photos, where no truth is known.
    """

    text: str
    group: str
    asks: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Protocol:
    """What is asked of a model.

    Attributes:
        name: for the report.
        about: one line.
        prompts: in the order in which a shorter list takes them.
        settings: settings of the preset that the protocol fixes.
        scheduler: class of diffusers; empty = the preset's.
    """

    name: str
    about: str
    prompts: tuple[Prompt, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    scheduler: str = ""

    def first(self, count: int) -> Protocol:
        """The same with its first prompts only.

        Raises:
            InputError: it has not so many.
        """
        if not 1 <= count <= len(self.prompts):
            raise InputError(f"--prompts {count}: the protocol {self.name!r} has 1 to {len(self.prompts)}")
        return replace(self, prompts=self.prompts[:count])

    def of(self, preset: Preset) -> Preset:
        """The preset with the settings that the protocol fixes."""
        scheduler = {"scheduler": self.scheduler} if self.scheduler else {}
        return preset.override(**scheduler, **self.settings)


def protocol_names() -> list[str]:
    """Names of the protocols that come with the package."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def load_protocol(name_or_path: str | PathLike[str]) -> Protocol:
    """A protocol of `protocol_names`, or a YAML file of the same form.

    Raises:
        InputError: no such protocol, or its YAML is not as it should be.
    """
    path = _FOLDER / f"{name_or_path}.yaml" if str(name_or_path) in protocol_names() else Path(name_or_path)
    if not path.exists():
        known = ", ".join(protocol_names())
        raise InputError(f"unknown protocol {str(name_or_path)!r}; known are {known}, or give a YAML file")
    content = read_config(path, "protocol")
    protocol = build(Protocol, {"name": path.stem, "about": "", **content}, str(path))
    for prompt in protocol.prompts:
        for factor, value in prompt.asks.items():
            if value not in FACTORS.get(factor, ()):
                known = ", ".join(FACTORS.get(factor, FACTORS))
                raise InputError(f"{path}: {prompt.text!r} asks {factor}: {value!r}, which is unknown; known: {known}")
    return protocol


def alternatives(factor: str, asks: Mapping[str, str]) -> list[str]:
    """One text for each value of a factor, in order of `FACTORS`, alike in everything else.

    The text that is most like a picture tells which value the picture shows. Colours are asked of the thing that the
    prompt names, and things in the colour that it names.
    """
    thing = factor.removesuffix("_color")
    texts = []
    for value in FACTORS[factor]:
        told = {**{name: asks.get(name, "") for name in (thing, f"{thing}_color")}, factor: value}
        texts.append(_told(thing, told[thing], told[f"{thing}_color"]))
    return texts


def _told(thing: str, value: str, color: str) -> str:
    colored = article(f"{color} {value}".strip())
    match thing:
        case "hat" | "glasses" if value == "none":
            return "a person"
        case "hat" if value == "crown":
            return "a person with a golden crown"
        case "hat" | "clothes":
            return f"a person in {colored}"
        case "glasses":
            return f"a person wearing {value}"
        case "expression":
            return f"a person {EXPRESSION_WORDS[value][0]}"
        case "style":
            return f"{STYLE_WORDS[value][0]} a person"
        case _ if value == "plain":
            return f"a person on {article(f'{color} background'.strip())}"
        case _ if value == "wallpaper":
            return f"a person in front of {color} striped wallpaper".replace("  ", " ")
        case _:
            return f"a person {BACKGROUND_WORDS[value][0]}"

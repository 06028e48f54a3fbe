"""Several people of a call: what is said of each, checked together."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from consistentid.adapter.prompt import Count, FacialText, check_length, completed, compose, facial_sentence
from consistentid.adapter.spec import AdapterSpec
from consistentid.errors import ArgumentError, InputError
from consistentid.faces.parts import PARTS

if TYPE_CHECKING:
    from consistentid.adapter.identity import Identity


STRONGEST = 2.0
"""Of a part's scale: beyond, words lose their meaning."""


@dataclass(frozen=True, eq=False)
class Person:
    """One person of a call.

    Attributes:
        identity: who.
        prompt: words about this person alone, read behind the prompt of the picture.
        face_text: the facial sentence; None = the identity's own or a fixed one.
        parts: descriptions of single parts.
        part_scales: how much of a part's picture is fused into its word: 0 = nothing, 1 = as trained; 1 where it is
            not said.
        merge_at: fraction of the steps after which the facial text is fused.
        scale: strength of the ID tokens, a factor on the adapter's.
        base_ratio: share of the prompt alone in this person's region, 0 to 1.
    """

    identity: Identity
    prompt: str = ""
    face_text: str | None = None
    parts: Mapping[str, str] | None = None
    part_scales: Mapping[str, float] | None = None
    merge_at: float = 0.6
    scale: float = 1.0
    base_ratio: float = 0.0

    def text(
        self, prompt: str, spec: AdapterSpec, count: Count, limit: int, visible: Collection[str] | None = None
    ) -> FacialText:
        """The prompt of a picture, this person's words and their facial sentence.

        Args:
            prompt: of the picture.
            spec: the habits of the weights.
            count: counts tokens.
            limit: context length of the text encoder.
            visible: parts to write of and to fuse; the identity's own by default.

        Raises:
            PromptTooLongError: they do not fit the text encoder even without the sentence.
        """
        if self.prompt:
            prompt = f"{prompt.rstrip(' .,;:')}, {self.prompt}" if prompt.strip() else self.prompt
            check_length(prompt, count, limit, "prompt with person_prompts")
        visible = self.identity.visible_parts if visible is None else visible
        sentence = self.face_text
        if sentence is None and visible and self.identity.face_text and not self.parts:
            sentence = completed(self.identity.face_text, visible, spec)
        elif sentence is None:
            sentence = facial_sentence(spec, visible, self.parts)
        return compose(prompt, sentence, visible, spec, count, limit)

    def strengths(self, text: FacialText, length: int) -> Tensor:
        """How much is fused into each token of a text of ``length`` tokens: (T,), 1 where nothing is said."""
        strengths = torch.ones(length)
        for part, position in zip(text.pictures, text.positions, strict=True):
            strengths[position] = (self.part_scales or {}).get(part, 1.0)
        return strengths


def gather(
    identities: Sequence[Identity],
    *,
    person_prompts: str | Sequence[str] | None = None,
    face_text: str | Sequence[str | None] | None = None,
    parts: Mapping[str, str] | Sequence[Mapping[str, str] | None] | None = None,
    part_scales: Mapping[str, float] | Sequence[Mapping[str, float] | None] | None = None,
    merge_at: float | Sequence[float] = 0.6,
    person_scales: float | Sequence[float] | None = None,
    base_ratio: float | Sequence[float] = 0.0,
) -> list[Person]:
    """The people of a call; what is given once goes for each.

    Raises:
        InputError: a list of another length than people, or a value out of its range.
    """
    people = [
        Person(identity, prompt or "", sentence, described, scales, merge, 1.0 if scale is None else scale, ratio)
        for identity, prompt, sentence, described, scales, merge, scale, ratio in zip(
            identities,
            _each("person_prompts", person_prompts, len(identities)),
            _each("face_text", face_text, len(identities)),
            _each("parts", parts, len(identities)),
            _each("part_scales", part_scales, len(identities)),
            _each("merge_at", merge_at, len(identities)),
            _each("person_scales", person_scales, len(identities)),
            _each("base_ratio", base_ratio, len(identities)),
            strict=True,
        )
    ]
    for person in people:
        if person.face_text is not None and person.parts:
            raise InputError("give either face_text, the whole facial sentence, or parts, descriptions of single parts")
        if not 0 <= person.merge_at <= 1:
            raise InputError(f"merge_at must be between 0 (from the start) and 1 (never), got {person.merge_at}")
        check_part_scales(person.part_scales)
        if not math.isfinite(person.scale):
            raise InputError(f"person_scales must be finite numbers, got {person.scale}; 1 is as trained, 0 is off")
        if not is_number(person.base_ratio) or not 0 <= person.base_ratio <= 1:
            raise ArgumentError(
                "{base_ratio}={value!r} is not allowed; give a number from 0 to 1", value=person.base_ratio
            )
    return people


def _each(name: str, value: Any, people: int) -> list[Any]:
    if value is None or isinstance(value, str | Mapping) or not isinstance(value, Sequence):
        return [value] * people
    if len(value) != people:
        raise InputError(f"{len(value)} {name} for {people} people; give one for all, or one for each in their order")
    return list(value)


def check_together(
    people: Sequence[Person],
    prompts: Sequence[str],
    apart: bool,
    regions_end: float,
    guidance_scale: float,
) -> None:
    """Makes sure that people, prompts and numbers of a call go together.

    Args:
        people, prompts: of the call.
        apart: whether the people are told apart: by regions, or each by their own prompt.
        regions_end, guidance_scale: see `ConsistentID.inputs`.

    Raises:
        InputError: they do not.
    """
    if not people or not prompts:
        raise InputError("give at least one identity and one prompt")
    if not apart and len(people) > 1:
        if len(prompts) > 1:
            raise InputError(
                f"{len(prompts)} prompts with {len(people)} identities: give regions, so that all of them are in every"
                " picture, or as many prompts as identities, each for the picture of one"
            )
        for name in ("parts", "part_scales"):
            if any(getattr(person, name) for person in people):
                raise InputError(f"{name} is of one person; with several identities give regions, too, or leave it out")
        if len({(person.prompt, person.face_text, person.merge_at) for person in people}) > 1:
            raise InputError("person_prompts, face_text and merge_at of each person need regions; say who is where")
    if not apart and any(person.scale != 1 for person in people):
        raise InputError("person_scales needs regions; without them the strength of all is ConsistentID.scale")
    check_regions_end(regions_end)
    if not math.isfinite(guidance_scale):
        raise InputError(f"guidance_scale must be a finite number, got {guidance_scale}")


def check_regions_end(regions_end: Any) -> float:
    """When regions end.

    Raises:
        ArgumentError: it is no number above 0, and at most 1.
    """
    if not is_number(regions_end) or not 0 < regions_end <= 1:
        raise ArgumentError(
            "{regions_end}={value!r} is not allowed; give a number above 0, and at most 1", value=regions_end
        )
    return float(regions_end)


def check_part_scales(scales: Any) -> dict[str, float] | None:
    """How much of single parts' pictures is fused.

    Raises:
        ArgumentError: an unknown part, or a value out of its range.
    """
    for part, scale in by_part("part_scales", scales, {"eyes": 0.5}):
        if not is_number(scale) or not 0 <= scale <= STRONGEST:
            raise ArgumentError(
                "{part_scales}: {part}={value!r} is not allowed; give a number from 0 to {most:g}, 1 is as trained",
                part=part,
                value=scale,
                most=STRONGEST,
            )
    return {part: float(scale) for part, scale in scales.items()} if scales else None


def by_part(argument: str, values: Any, example: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """What is given of single parts: each part, once it is known to be one, and its value."""
    if values is not None and not isinstance(values, Mapping):
        raise ArgumentError(f"{{{argument}}}={{value!r}} is not allowed; give a mapping such as {{example}}",
                            value=values, example=example)  # fmt: skip
    for part, value in (values or {}).items():
        if part not in PARTS:
            raise ArgumentError(
                f"{{{argument}}}: unknown part {{part!r}}; known parts are {{known}}", part=part, known=", ".join(PARTS)
            )
        yield part, value


def is_number(value: Any) -> bool:
    """Whether it is a real number; True and False are none."""
    return isinstance(value, Real) and not isinstance(value, bool)

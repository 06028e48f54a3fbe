"""Several people of a call: what is said of each, checked together."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from consistentid.adapter.prompt import Count, FacialText, check_length, completed, compose, facial_sentence
from consistentid.adapter.spec import AdapterSpec
from consistentid.errors import InputError

if TYPE_CHECKING:
    from consistentid.adapter.identity import Identity


@dataclass(frozen=True, eq=False)
class Person:
    """One person of a call.

    Attributes:
        identity: who.
        prompt: words about this person alone, read behind the prompt of the picture.
        face_text: the facial sentence; None = the identity's own or a fixed one.
        parts: descriptions of single parts.
        merge_at: fraction of the steps after which the facial text is fused.
        scale: strength of the ID tokens, a factor on the adapter's.
    """

    identity: Identity
    prompt: str = ""
    face_text: str | None = None
    parts: Mapping[str, str] | None = None
    merge_at: float = 0.6
    scale: float = 1.0

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


def gather(
    identities: Sequence[Identity],
    *,
    person_prompts: str | Sequence[str] | None = None,
    face_text: str | Sequence[str | None] | None = None,
    parts: Mapping[str, str] | Sequence[Mapping[str, str] | None] | None = None,
    merge_at: float | Sequence[float] = 0.6,
    person_scales: float | Sequence[float] | None = None,
) -> list[Person]:
    """The people of a call; what is given once goes for each.

    Raises:
        InputError: a list of another length than people, or a value out of its range.
    """
    people = [
        Person(identity, prompt or "", sentence, described, merge, 1.0 if scale is None else scale)
        for identity, prompt, sentence, described, merge, scale in zip(
            identities,
            _each("person_prompts", person_prompts, len(identities)),
            _each("face_text", face_text, len(identities)),
            _each("parts", parts, len(identities)),
            _each("merge_at", merge_at, len(identities)),
            _each("person_scales", person_scales, len(identities)),
            strict=True,
        )
    ]
    for person in people:
        if person.face_text is not None and person.parts:
            raise InputError("give either face_text, the whole facial sentence, or parts, descriptions of single parts")
        if not 0 <= person.merge_at <= 1:
            raise InputError(f"merge_at must be between 0 (from the start) and 1 (never), got {person.merge_at}")
        if not math.isfinite(person.scale):
            raise InputError(f"person_scales must be finite numbers, got {person.scale}; 1 is as trained, 0 is off")
    return people


def _each(name: str, value: Any, people: int) -> list[Any]:
    if value is None or isinstance(value, str | Mapping) or not isinstance(value, Sequence):
        return [value] * people
    if len(value) != people:
        raise InputError(f"{len(value)} {name} for {people} people; give one for all, or one for each in their order")
    return list(value)

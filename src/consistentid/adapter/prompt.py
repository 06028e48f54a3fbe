"""The facial sentence: which words name which part of a face, and at which tokens a text encoder reads them.

Everything here is a pure function of strings; tokenizers enter as functions that count tokens.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Self

from consistentid.adapter.spec import AdapterSpec
from consistentid.errors import InputError, PromptTooLongError
from consistentid.faces.parts import PARTS

Count = Callable[[str], int]
"""Number of tokens of a text, start and end token included, nothing cut."""

# The usual noun comes first: where a sentence has one, it is preferred to a looser word for the same part.
_WORDS: Mapping[str, tuple[str, str]] = {
    "face": ("faces?", "faced|visages?|countenances?"),
    "eyes": ("eyes?", "eyed|eyeballs?|iris|irises"),
    "ears": ("ears?", "eared|earlobes?"),
    "nose": ("noses?", "nosed|nostrils?"),
    "mouth": ("mouths?", "mouthed|lips?|lipped"),
}
_LETTER = r"[^\W\d_]"  # tokenizers split words where letters end, so hyphens and digits end a word here too
_PATTERNS = {
    part: tuple(re.compile(rf"(?<!{_LETTER})(?:{words})(?!{_LETTER})", re.IGNORECASE) for words in tiers)
    for part, tiers in _WORDS.items()
}
_CLAUSE_END = re.compile(r"[,.;:!?\n\r]+")


@dataclass(frozen=True)
class FacialText:
    """One prompt with its facial sentence, as the text encoders read it.

    Attributes:
        plain: text of the first steps.
        full: text of the steps after the merge; the words to fuse are in this one.
        marked: what the second text encoder reads instead of `full`; the same unless the spec has a marker.
        words: part that each fused word names, in order of the text.
        pictures: part whose picture is fused into that word; differs from `words` only under `spec.swapped_parts`.
        positions: token position of each fused word (its last token), the start token being 0.
        cut: end of the facial sentence that did not fit; empty if all did.
        unseen: clauses left out because they name only parts without a picture (under `spec.clauses`).
    """

    plain: str
    full: str
    marked: str
    words: tuple[str, ...]
    pictures: tuple[str, ...]
    positions: tuple[int, ...]
    cut: str = ""
    unseen: tuple[str, ...] = ()

    @classmethod
    def of(cls, prompt: str) -> Self:
        """A prompt without a facial sentence, as it is."""
        return cls(prompt, prompt, prompt, (), (), ())


def find_parts(text: str) -> dict[str, tuple[int, int]]:
    """The word that names each part, as (start, end) in `text`, in order of the text; parts not named are left out."""
    found = {}
    for part, tiers in _PATTERNS.items():
        if match := next(filter(None, (tier.search(text) for tier in tiers)), None):
            found[part] = match.span()
    return dict(sorted(found.items(), key=lambda item: item[1]))


def facial_sentence(spec: AdapterSpec, visible: Collection[str], parts: Mapping[str, str] | None = None) -> str:
    """The sentence about the parts that are visible, or that `parts` describes, e.g. ``{"eyes": "green eyes"}``.

    A description that does not name its part gets the part's name appended: "green" becomes "green eyes".

    Raises:
        InputError: `parts` has an unknown part or an empty description.
    """
    parts = parts or {}
    for part, text in parts.items():
        if part not in PARTS:
            raise InputError(f"unknown part {part!r} in parts; known parts are {', '.join(PARTS)}")
        if not text.strip():
            raise InputError(f'the description of {part!r} in parts is empty; write for example "green {part}"')
    described = {part: text if part in find_parts(text) else f"{text} {part}" for part, text in parts.items()}
    phrases = [described.get(part, spec.phrases[part]) for part in spec.phrases if part in visible or part in described]
    if len(phrases) > 1:
        phrases[-1] = f"and {phrases[-1]}"
    return f"The person has {', '.join(phrases)}." if phrases else ""


def completed(sentence: str, visible: Collection[str], spec: AdapterSpec) -> str:
    """A facial sentence that someone else wrote, and after it the standard one about visible parts it does not name."""
    named = find_parts(sentence)
    rest = facial_sentence(spec, [part for part in visible if part not in named])
    return f"{sentence.rstrip(' .,;:')}. {rest}" if sentence.strip() and rest else sentence.strip() or rest


def compose(
    prompt: str, sentence: str, visible: Collection[str], spec: AdapterSpec, count: Count, limit: int = 77
) -> FacialText:
    """Joins prompt and facial sentence and finds the words to fuse.

    The prompt is never cut. Of a sentence that does not fit behind it, whole words are cut from the end; so the end
    token always stays.

    Args:
        prompt: the user's prompt.
        sentence: the facial sentence; in it the first word for each visible part is fused.
        visible: parts whose pictures there are.
        spec: the habits of the weights.
        count: counts tokens; of several text encoders, the first.
        limit: context length of the text encoder, start and end token included.

    Raises:
        PromptTooLongError: the prompt alone does not fit.
    """
    check_length(prompt, count, limit)
    unseen: tuple[str, ...] = ()
    if spec.clauses:
        sentence, unseen = _as_clauses(sentence, visible, tuple(spec.phrases))
        head = prompt + spec.separator
        if count(head) > limit:  # the bare separator carries no meaning, unlike the prompt's last words
            head = prompt
    else:
        head = prompt.rstrip(" .,;:") + spec.separator if prompt.strip() and sentence.strip() else prompt
    kept = fitting(head, sentence, count, limit)
    if not kept and not spec.clauses:
        head = prompt
    full = head + kept
    spans = {part: span for part, span in find_parts(kept).items() if part in visible}
    marked = kept
    for _, end in reversed(spans.values()) if spec.marker else ():
        marked = f"{marked[:end]} {spec.marker}{marked[end:]}"
    return FacialText(
        plain=full if spec.plain_sentence else prompt,
        full=full,
        marked=head + marked,
        words=tuple(spans),
        pictures=tuple(_swapped(part, spans, spec.swapped_parts) for part in spans),
        # count includes start and end token: the last token of a text of n tokens in all is number n - 2
        positions=tuple(count(full[: len(head) + end]) - 2 for _, end in spans.values()),
        cut=sentence[len(kept) :].strip(" ,;:"),
        unseen=unseen,
    )


def check_length(prompt: str, count: Count, limit: int, name: str = "prompt") -> None:
    """Makes sure that a text fits the encoder uncut.

    Raises:
        PromptTooLongError: it does not; the message shows the part that does not fit.
    """
    if (tokens := count(prompt)) > limit:
        fits = fitting("", prompt, count, limit)
        raise PromptTooLongError(
            f"the {name} has {tokens - 2} tokens, but the text encoder reads {limit - 2};"
            f" shorten it: from here on it does not fit: {prompt[len(fits) :].strip()!r}"
        )


def fitting(head: str, text: str, count: Count, limit: int) -> str:
    """The longest start of `text`, in whole words, that fits behind `head`."""
    if count(head + text) <= limit:
        return text
    ends = [0, *(match.end() for match in re.finditer(r"\S+", text))]
    return text[: next((end for end in reversed(ends) if count(head + text[:end]) <= limit), 0)].rstrip(" ,;:")


def _as_clauses(sentence: str, visible: Collection[str], order: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """Clauses in the order of the parts they name, each ended by a comma, and those that name unseen parts only.

    A clause that names no part stays behind the one it followed.
    """
    ranked: list[tuple[int, str]] = []
    unseen = []
    for clause in filter(None, (text.strip() for text in _CLAUSE_END.split(sentence))):
        named = find_parts(clause)
        if named and not any(part in visible for part in named):
            unseen.append(clause)
            continue
        rank = min((order.index(part) for part in named), default=ranked[-1][0] if ranked else 0)
        ranked.append((rank, clause))
    ordered = "".join(f"{clause}, " for _, clause in sorted(ranked, key=lambda item: item[0]))
    return ordered.rstrip(), tuple(unseen)


def _swapped(part: str, used: Collection[str], pair: tuple[str, ...]) -> str:
    if part not in pair or not all(other in used for other in pair):
        return part
    return pair[1 - pair.index(part)]

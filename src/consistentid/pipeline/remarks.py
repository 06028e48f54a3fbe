"""What is done as asked and yet hardly as meant: sizes far from the base's own, marks and words that mean nothing here.

Each is one sentence, told by `warnings`: the command line prints it as a note, the service answers with it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from consistentid.pipeline.request import Request

LARGE, SMALL = 1.75, 0.5
"""Sides of a picture, in sides of the base, from which on it draws badly: two heads, or half of one."""

TAUGHT = "taught_words"
"""Entry of a tokenizer's configuration that lists, in lower case, all words that its base was taught."""

_WORD = re.compile(r"[^\W\d_]+")
_NETWORK = re.compile(r"<(?:lora|lyco|hypernet):[^<>]*>", re.IGNORECASE)
_WEIGHT = re.compile(r"\([^()]*:\s*[0-9.]+\s*\)|\[[^\[\]]*:[^\[\]]*:\s*[0-9.]+\s*\]")
_MANY = 10_000  # tokens of a vocabulary of a whole language; CLIP's own has 49,408
_NAMED = 8  # unknown words that are named


def remarks(request: Request, tokenizer: Any, native: tuple[int, int], size: tuple[int, int] | None) -> Iterator[str]:
    """Sentences about a request, in words of the library.

    Args:
        request: what is asked for.
        tokenizer: of the base's text encoder.
        native: (width, height) in pixels that the base was made for.
        size: (width, height) of what is sampled; None where a given picture decides.
    """
    shares = [side / own for side, own in zip(size or native, native, strict=True)]
    if size and (max(shares) >= LARGE or min(shares) < SMALL):
        yield (
            f"{size[0]}x{size[1]} pixels are far from the {native[0]}x{native[1]} that this base was made for, and"
            " people may come out doubled or cut off; leave out width and height, or take another base"
        )
    texts = dict(_texts(request))
    for argument, text in texts.items():
        for mark in _NETWORK.findall(text):
            yield (
                f"{mark!r} in {argument} is read as plain text; load a LoRA with --lora FILE:STRENGTH on the command"
                " line, or with from_preset(..., loras=[...])"
            )
        for mark in _WEIGHT.findall(text):
            yield f"{mark!r} in {argument} is read as plain text: words have no weights here; name fewer things instead"
    unknown = list(dict.fromkeys(word for text in texts.values() for word in unknown_words(text, tokenizer)))
    if unknown:
        more = f" and {len(unknown) - _NAMED} more" if len(unknown) > _NAMED else ""
        yield (
            f"the base's text encoder does not know {', '.join(unknown[:_NAMED])}{more}: it gets them in pieces that"
            f" mean nothing to it; {_remedy(tokenizer)}"
        )


def unknown_words(text: str, tokenizer: Any) -> list[str]:
    """The words of a text that a CLIP text encoder cannot have learned, in order.

    Its tokenizer takes any text, if need be byte by byte. CLIP's own was made of English, to which letters of other
    scripts, and words that are taken letter by letter, are strange; one that names the words of all captions of its
    base (`TAUGHT`) knows these alone. Of other kinds of tokenizers nothing is known.
    """
    if "CLIPTokenizer" not in type(tokenizer).__name__:
        return []
    taught, found = _taught(tokenizer), []
    for word in words(_NETWORK.sub(" ", text)):
        pieces = tokenizer.tokenize(word)
        if len(word) < 2 or len(pieces) < 2:
            continue
        if taught:
            strange = word.lower() not in taught
        else:
            letter_by_letter = len(tokenizer) > _MANY and len(word) > 3 and len(pieces) >= len(word)
            strange = letter_by_letter or not all(_is_latin(letter) for letter in word)
        if strange:
            found.append(word)
    return found


def words(text: str) -> list[str]:
    """The words of a text as they are told apart here, in order."""
    return _WORD.findall(text)


@lru_cache(maxsize=4096)
def _is_latin(letter: str) -> bool:
    return unicodedata.name(letter, "").startswith("LATIN")


def _taught(tokenizer: Any) -> frozenset[str]:
    return frozenset(getattr(tokenizer, "init_kwargs", {}).get(TAUGHT, ()))


def _remedy(tokenizer: Any) -> str:
    taught = _taught(tokenizer)
    return f"it was taught {len(taught)} words" if taught else "write in English"


def _texts(request: Request) -> Iterator[tuple[str, str]]:
    """Where something is said -> what; in one text for each argument."""
    given: Mapping[str, Any] = {
        "prompt": request.prompts,
        "negative_prompt": (request.negative_prompt,),
        "person_prompts": request.person_prompts or (),
        "face_text": request.face_text if isinstance(request.face_text, tuple) else (request.face_text,),
        "parts": [
            text
            for words in (request.parts if isinstance(request.parts, tuple) else (request.parts,))
            for text in (words or {}).values()
        ],
    }
    for argument, texts in given.items():
        if said := "\n".join(text for text in texts if text):
            yield argument, said

"""What is done as asked and yet hardly as meant is said, once, wherever it is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import CLIPTokenizer

import tiny
from consistentid.pipeline import remarks as module
from consistentid.pipeline.pipeline import ConsistentIDPipeline
from consistentid.pipeline.remarks import remarks, unknown_words
from consistentid.pipeline.request import Request

DRAWN = Path(module.__file__).parent.parent / "weights/drawn/base/tokenizer"


@pytest.fixture(scope="module")
def drawn() -> Any:
    return CLIPTokenizer.from_pretrained(DRAWN)


class Wide:
    """As CLIP's own: many tokens, among them pieces of English words; what it has not is taken byte by byte."""

    def __init__(self, *words: str) -> None:
        self.words = words

    def __len__(self) -> int:
        return 49408

    def tokenize(self, word: str) -> list[str]:
        if word in self.words:
            return [word + "</w>"]
        return [word[:4], word[4:]] if word.isascii() and len(word) > 6 else list(word.encode().hex())


class CLIPTokenizerOfMany(Wide):
    pass


def said(
    tokenizer: Any, size: tuple[int, int] | None = None, native: tuple[int, int] = (64, 64), **request: Any
) -> list[str]:
    return list(remarks(Request(**request), tokenizer, native, size))


def test_words_that_the_drawn_text_encoder_was_not_taught(drawn: Any) -> None:
    assert unknown_words("A woman in a red hat, with blonde hair", drawn) == []
    assert unknown_words("two people: a man on the left, a woman on the right", drawn) == [], (
        "as captions of groups say"
    )
    assert unknown_words("a zebra on a skateboard, 帽子, женщина", drawn) == [
        "zebra",
        "skateboard",
        "帽子",
        "женщина",
    ]
    [note] = said(drawn, prompt=["a woman", "a zebra"], parts={"eyes": "turquoise eyes"})
    assert "does not know zebra, turquoise: " in note
    assert said(drawn, prompt="a woman in a red hat") == []


def test_other_scripts_are_strange_to_clip_and_rare_english_words_are_not() -> None:
    clip = CLIPTokenizerOfMany("woman", "hat", "naïve")
    assert unknown_words("woman skateboarding naïve 7 hat", clip) == []
    assert unknown_words("женщина woman", clip) == ["женщина"]
    assert unknown_words("zażółć", clip) == ["zażółć"], "byte by byte"
    assert "write in English" in said(clip, prompt="женщина")[0]
    assert unknown_words("женщина", Wide()) == [], "of another kind of tokenizer nothing is known"


@pytest.mark.parametrize(
    ("text", "mark"),
    [
        ("a woman in a (red hat:1.4)", "(red hat:1.4)"),
        ("a woman <lora:film:0.7>", "<lora:film:0.7>"),
        ("a woman [cat:dog:0.5]", "[cat:dog:0.5]"),
    ],
)
@pytest.mark.parametrize("argument", ["prompt", "negative_prompt", "face_text"])
def test_marks_of_other_programs_are_plain_text(text: str, mark: str, argument: str) -> None:
    notes = said(object(), **{"prompt": "a woman", argument: text})
    assert len(notes) == 1
    assert notes[0].startswith(f"'{mark}' in {argument} is read as plain text")


def test_plain_brackets_say_nothing() -> None:
    assert said(object(), prompt="a woman (smiling), 3:4, [sic], at 10:30 (about: a beach)") == []


@pytest.mark.parametrize(
    ("size", "native", "far"),
    [
        ((128, 64), (64, 64), True), ((24, 64), (64, 64), True), ((1024, 1024), (512, 512), True),
        ((512, 768), (512, 512), False), ((864, 1152), (1024, 1024), False), (None, (64, 64), False),
    ],
)  # fmt: skip
def test_sizes_far_from_the_base_s_own(size: tuple[int, int] | None, native: tuple[int, int], far: bool) -> None:
    notes = said(object(), size, native, prompt="a woman")
    assert len(notes) == far
    assert all(
        size and f"{size[0]}x{size[1]} pixels are far from the {native[0]}x{native[1]}" in note for note in notes
    )


def test_a_call_says_them_once_before_it_samples() -> None:
    studio = ConsistentIDPipeline.from_preset(tiny.preset(), device="cpu")
    who = studio.identify(tiny.portrait())
    native = studio.sampler.native_size
    with pytest.warns(UserWarning, match="plain text|far from") as caught:
        studio(who, "a man <lora:film:0.7>", num_images_per_prompt=2, width=2 * native[0], height=native[1])
    assert len(caught) == 2

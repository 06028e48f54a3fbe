"""Facial sentences: which word names which part, at which token, and what happens when there is no room."""

import json
from dataclasses import replace
from typing import Any

import pytest
from transformers import CLIPTokenizer

from consistentid.adapter.prompt import completed, compose, facial_sentence, find_parts
from consistentid.adapter.spec import AdapterSpec
from consistentid.errors import InputError, PromptTooLongError
from consistentid.faces.parts import PARTS
from vectors import GOLDEN

RECORDED = {case["id"]: case for case in json.loads((GOLDEN / "cases" / "text.json").read_text())["cases"]}
BINDING = [case for case in RECORDED if case.startswith("default_")] + ["no_masks", "only_face", "all8_masks"]
PART_OF = {"Face": "face", "Nose": "nose", "Left_Eye": "eyes", "Left_Ear": "ears", "Upper_Lip": "mouth"}
PART_OF |= {"Right_Eye": "eyes", "Right_Ear": "ears", "Lower_Lip": "mouth"}
OURS = AdapterSpec()
RELEASED = {"sd15": AdapterSpec.released("sd15"), "sdxl": AdapterSpec.released("sdxl")}


class WordPieces:
    """A slow CLIP tokenizer, as older versions of transformers had: a plain function of text, without offsets."""

    def __init__(self, fast: CLIPTokenizer) -> None:
        self.fast = fast

    def __call__(self, text: str) -> list[int]:
        words = self.fast.backend_tokenizer.pre_tokenizer.pre_tokenize_str(
            self.fast.backend_tokenizer.normalizer.normalize_str(text)
        )
        return [813, *(id for word, _ in words for id in self._pieces(word)), 814]

    def _pieces(self, word: str) -> list[int]:
        return [token.id for token in self.fast.backend_tokenizer.model.tokenize(word)]


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(GOLDEN / "tokenizer" / "tokenizer")


@pytest.fixture(scope="module")
def tokenizer_2() -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(GOLDEN / "tokenizer" / "tokenizer_2")


@pytest.fixture(params=["fast", "slow"])
def ids(request: pytest.FixtureRequest, tokenizer: CLIPTokenizer) -> Any:
    """A text's token ids."""
    return WordPieces(tokenizer) if request.param == "slow" else lambda text: tokenizer(text).input_ids


def composed(
    ids: Any, prompt: str, sentence: str, visible: Any = PARTS, spec: AdapterSpec = OURS, limit: int = 77
) -> Any:
    return compose(prompt, sentence, visible, spec, lambda text: len(ids(text)), limit)


def fused_words(ids: Any, text: Any) -> dict[str, list[int]]:
    """part -> tokens of its word up to the fused one."""
    return {
        word: ids(text.full)[position : position + 1] for word, position in zip(text.words, text.positions, strict=True)
    }


@pytest.mark.parametrize("base", ["sd15", "sdxl"])
@pytest.mark.parametrize("case", BINDING)
def test_released_spec_reads_the_fixed_sentences_as_the_reference_does(
    tokenizer: CLIPTokenizer, tokenizer_2: CLIPTokenizer, case: str, base: str
) -> None:
    recorded = RECORDED[case]
    expected, spec = recorded[base], RELEASED[base]
    visible = {PART_OF[mask] for mask in recorded["masks"]}
    text = compose(recorded["prompt"], recorded["caption"], visible, spec, lambda text: len(tokenizer(text).input_ids))
    assert tokenizer(text.full, padding="max_length").input_ids == expected["prompt_text_only_ids"]
    assert list(text.positions) == expected["facial_token_positions"]
    assert {PART_OF[mask] for mask in expected["remaining_masks"]} == set(text.words)
    if base == "sdxl":
        assert tokenizer_2(text.marked, padding="max_length").input_ids == expected["clean_input_id2"]
        assert tokenizer_2(text.plain, padding="max_length").input_ids == expected["prompt_ids2"]
    else:
        assert text.marked == text.plain == text.full


@pytest.mark.parametrize(("base", "caption"), [("sd15", "default_sd15"), ("sdxl", "default_sdxl")])
@pytest.mark.parametrize("hidden", [(), ("ears",)])
def test_released_default_sentence_is_the_reference_s(
    base: str, caption: str, hidden: tuple[str, ...], ids: Any
) -> None:
    spec = RELEASED[base]
    visible = [part for part in PARTS if part not in hidden]
    ours = composed(ids, "A man", facial_sentence(spec, visible), visible, spec)
    theirs = composed(ids, "A man", RECORDED[caption]["caption"], visible, spec)
    assert ours.full == theirs.full
    assert theirs.unseen == (("two ears",) if hidden else ())


def test_released_eyes_and_ears_get_each_other_s_picture_only_when_both_are_there(ids: Any) -> None:
    spec = RELEASED["sd15"]
    both = composed(ids, "A man", facial_sentence(spec, PARTS), PARTS, spec)
    assert both.words == ("face", "ears", "eyes", "nose", "mouth")
    assert both.pictures == ("face", "eyes", "ears", "nose", "mouth")
    no_ears = [part for part in PARTS if part != "ears"]
    alone = composed(ids, "A man", facial_sentence(spec, no_ears), no_ears, spec)
    assert alone.words == alone.pictures == ("face", "eyes", "nose", "mouth")


@pytest.mark.parametrize("sentence", [case["caption"] for case in RECORDED.values()])
def test_ours_gives_each_word_its_own_part_wherever_it_stands(ids: Any, sentence: str) -> None:
    text = composed(ids, "A man", sentence, limit=10**6)
    assert text.pictures == text.words
    assert list(text.positions) == sorted(text.positions)
    assert set(text.words) == set(find_parts(sentence))
    assert sentence.strip() in text.full or not sentence
    for part, position in zip(text.words, text.positions, strict=True):
        start, end = find_parts(text.full)[part]
        word = ids(text.full[start:end])[1:-1]
        assert ids(text.full)[position - len(word) + 1 : position + 1] == word


@pytest.mark.parametrize(
    ("sentence", "parts"),
    [
        ("The person has one eye, one ear, and lips. Faces are round.", "eyes ears mouth face"),
        ("face eyes ears nose mouth", "face eyes ears nose mouth"),
        ("a man with a big nose", "nose"),
        ("FACE, Eyes", "face eyes"),
        ("hook-nosed, blue-eyed, thin-lipped", "nose eyes mouth"),
        ("large earlobes, wide nostrils", "ears nose"),
        ("her eyebrows, earrings, eyelashes and mouthwash on the surface", ""),
        ("The man's face isn't old; mouth's corners up", "face mouth"),
        ("eyes, then eyes again", "eyes"),
        ("green-eyed man with green eyes", "eyes"),
        ("", ""),
    ],
)
def test_words_that_name_parts(sentence: str, parts: str) -> None:
    assert list(find_parts(sentence)) == parts.split()


def test_the_plain_noun_is_preferred_to_a_looser_word() -> None:
    sentence = "a green-eyed man with small eyes"
    start, end = find_parts(sentence)["eyes"]
    assert (start, sentence[start:end]) == (28, "eyes")


def test_only_words_of_the_facial_sentence_are_fused(ids: Any) -> None:
    text = composed(ids, "a face on a wall, wide eyes", "The person has one nose.")
    assert text.words == ("nose",)


def test_unseen_parts_are_read_but_not_fused(ids: Any) -> None:
    text = composed(ids, "a man", "green eyes, pointed ears", ("eyes",))
    assert text.words == ("eyes",)
    assert "pointed ears" in text.full
    assert text.unseen == ()


def test_parts_build_the_sentence() -> None:
    parts = {"eyes": "green eyes", "mouth": "wide"}
    assert facial_sentence(OURS, PARTS, parts) == (
        "The person has one face, green eyes, two ears, one nose, and wide mouth."
    )
    assert facial_sentence(OURS, ("face",)) == "The person has one face."
    assert facial_sentence(OURS, (), {"ears": "pointed ears"}) == "The person has pointed ears."
    assert facial_sentence(OURS, ()) == ""


def test_a_foreign_sentence_is_completed_by_the_visible_parts_it_lacks() -> None:
    seen = ("face", "eyes", "nose", "mouth")
    assert completed("Her Face is oval, with green eyes", seen, OURS) == (
        "Her Face is oval, with green eyes. The person has one nose, and one mouth."
    )
    whole = "An oval face, green eyes, a small nose and full lips."
    assert completed(f" {whole} ", seen, OURS) == whole
    assert completed("", seen, OURS) == facial_sentence(OURS, seen)
    assert completed("Blue eyes.", (), OURS) == "Blue eyes."


def test_several_parts_of_one_clause_each_keep_their_own_word(ids: Any) -> None:
    sentence = "He has a Square-Jawed FACE with small ears, a hook-nose and thin lips"
    for spec in (OURS, *RELEASED.values()):
        text = composed(ids, "a man", sentence, spec=spec, limit=10**6)
        assert text.words == ("face", "ears", "nose", "mouth")
        assert len(set(text.positions)) == 4


def test_parts_that_do_not_exist_are_named() -> None:
    with pytest.raises(InputError, match=r"unknown part 'brow'.*face, eyes, ears, nose, mouth"):
        facial_sentence(OURS, PARTS, {"brow": "thick brows"})
    with pytest.raises(InputError, match="'nose' in parts is empty"):
        facial_sentence(OURS, PARTS, {"nose": " "})


def test_own_layout_never_shows_a_marker_and_stays_plain_without_a_sentence(ids: Any) -> None:
    text = composed(ids, "a man in a forest.", facial_sentence(OURS, PARTS))
    assert text.marked == text.full == text.plain
    assert "|" not in text.full
    assert text.full.startswith("a man in a forest, The person")
    assert composed(ids, "a man in a forest.", "").full == "a man in a forest."


def long_prompt(ids: Any, tokens: int) -> str:
    """A prompt of exactly so many tokens, start and end included."""
    prompt = " ".join(["man"] * (tokens - 2))
    assert len(ids(prompt)) == tokens
    return prompt


@pytest.mark.parametrize("spec", [OURS, *RELEASED.values()], ids=["ours", "sd15", "sdxl"])
@pytest.mark.parametrize("tokens", [50, 60, 70, 75, 76, 77])
def test_the_sentence_is_cut_and_never_the_prompt(ids: Any, spec: AdapterSpec, tokens: int) -> None:
    prompt, sentence = long_prompt(ids, tokens), facial_sentence(spec, PARTS)
    text = composed(ids, prompt, sentence, spec=spec)
    assert len(ids(text.full)) <= 77
    assert text.full.startswith(prompt)
    assert ids(text.full)[-1] == 814
    assert (text.cut == "") == (len(ids(prompt)) < 56)
    assert text.full.endswith(text.cut) == (text.cut == "")
    assert all(position < len(ids(text.full)) - 1 for position in text.positions)
    whole = composed(ids, prompt, sentence, spec=spec, limit=10**6)
    assert whole.positions[: len(text.positions)] == text.positions


def test_a_prompt_that_alone_does_not_fit_is_an_error_that_shows_the_rest(ids: Any) -> None:
    with pytest.raises(PromptTooLongError, match=r"the prompt has 77 tokens, .* reads 75; .*: 'nose nose'"):
        composed(ids, f"{long_prompt(ids, 77)} nose nose", "")


def test_clauses_that_name_no_part_are_kept_in_the_released_layout(ids: Any) -> None:
    caption = "Her face is round. She has long hair. Her nose is small; her eyes are brown"
    text = composed(ids, "A woman", caption, spec=RELEASED["sd15"])
    assert text.full == "A womanDetail:Her face is round, She has long hair, her eyes are brown, Her nose is small,"


def test_swapped_parts_are_data() -> None:
    spec = replace(OURS, swapped_parts=("nose", "mouth"))
    text = compose("a man", "nose, mouth, face", PARTS, spec, lambda text: len(text.split()) + 2)
    assert text.pictures == ("mouth", "nose", "face")

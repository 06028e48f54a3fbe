"""The tokenizer and the captions of the pool."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import CLIPTokenizer

from consistentid.drawn.pools import Pool, PoolSpec, captions, group_captions
from consistentid.pipeline.remarks import unknown_words
from consistentid.training.drawn.recipe import Mixture
from consistentid.training.drawn.text import CONTEXT, open_tokenizer, tokenize

VOCABULARY = 700


def without_pictures(spec: PoolSpec) -> Pool:
    nothing = np.zeros((len(spec), 1, 1, 1), np.uint8)
    marks, boxes = np.zeros((len(spec), 5, 2), np.float32), np.zeros((len(spec), 4), np.float32)
    return Pool(spec, nothing, nothing[..., 0], marks, boxes)


@pytest.fixture(scope="module")
def mixture() -> Mixture:
    """The captions need no pictures."""
    groups = PoolSpec(people=30, scenes=2, size=32, together=2, width=48)
    return Mixture(without_pictures(PoolSpec(people=60, scenes=4, size=32)), (without_pictures(groups),), share=0.2)


@pytest.fixture(scope="module")
def pool(mixture: Mixture) -> Pool:
    return mixture.portraits


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tokenizer")


@pytest.fixture(scope="module")
def tokenizer(mixture: Mixture, folder: Path) -> CLIPTokenizer:
    return open_tokenizer(mixture, VOCABULARY, folder)


def texts_of(pool: Pool) -> list[str]:
    return [text for c in captions(pool, np.arange(len(pool)), seed=9) for text in (c.image, c.face)]


def test_captions_belong_to_their_rows_and_seed(pool: Pool) -> None:
    some = captions(pool, np.array([5, 200]), seed=1)
    assert some == [captions(pool, np.array([row]), seed=1)[0] for row in (5, 200)]
    assert some != captions(pool, np.array([5, 200]), seed=2)


def test_texts_survive_the_round_trip(pool: Pool, tokenizer: CLIPTokenizer) -> None:
    for text in texts_of(pool)[:200]:
        back = tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True)
        assert back.replace(" ", "") == text.lower().replace(" ", "")


def test_no_text_meets_the_unknown_token(tokenizer: CLIPTokenizer) -> None:
    rng = np.random.default_rng(0)
    codes = [c for c in range(0x20, 0x2FFFF) if not 0xD800 <= c < 0xE000]
    words = ["".join(map(chr, rng.choice(codes, 12))) for _ in range(200)]
    words += [chr(c) for c in range(0x21, 0x250)] + ["a\u0301", "🙂🏽", "x" * 400, "\x00\x01", "Straße"]
    special = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id, tokenizer.pad_token_id}
    for word, ids in zip(words, tokenizer(words).input_ids, strict=True):
        assert ids[0] == tokenizer.bos_token_id
        assert ids[-1] == tokenizer.eos_token_id
        assert not special & set(ids[1:-1]), ascii(word)


def test_it_learnt_the_words_of_the_captions(pool: Pool, tokenizer: CLIPTokenizer) -> None:
    assert 512 < len(tokenizer) <= VOCABULARY + 512  # and every byte, whether it occurred or not
    texts = texts_of(pool)
    tokens = sum(len(ids) - 2 for ids in tokenizer(texts).input_ids)
    assert tokens < 1.6 * sum(len(text.split()) for text in texts)
    both = [f"{image}, {face}" for image, face in zip(texts[::2], texts[1::2], strict=True)]
    assert max(len(ids) for ids in tokenizer(both).input_ids) <= CONTEXT


def test_it_names_the_words_of_all_captions(mixture: Mixture, tokenizer: CLIPTokenizer) -> None:
    [groups] = mixture.groups
    texts = [*texts_of(mixture.portraits)[:200], *(c.image for c in group_captions(groups, np.arange(60), seed=9))]
    assert not [word for text in texts for word in unknown_words(text, tokenizer)]
    assert unknown_words("a zebra on the left, in a Blue hat", tokenizer) == ["zebra"]


def test_it_is_learnt_once_and_the_same_again(
    mixture: Mixture, tokenizer: CLIPTokenizer, folder: Path, tmp_path: Path
) -> None:
    text = "an old woman in a blue hat, Ünder the stars"
    again = open_tokenizer(mixture, VOCABULARY, tmp_path)
    assert again.get_vocab() == tokenizer.get_vocab()
    (folder / "marker").write_text("")
    reopened = open_tokenizer(mixture, 5, folder)  # what is there is opened, not learnt
    assert (folder / "marker").exists()
    assert reopened(text).input_ids == tokenizer(text).input_ids


def test_ids_are_padded_and_cut_with_their_end(tokenizer: CLIPTokenizer) -> None:
    ids = tokenize(tokenizer, ["a hat", "hat " * 200])
    assert ids.shape == (2, CONTEXT)
    assert ids.dtype == torch.int64
    assert ids[1, -1] == tokenizer.eos_token_id
    assert (ids[0, 4:] == tokenizer.pad_token_id).all()
    assert tokenize(tokenizer, ["a hat", "a red hat"], padding="longest").shape[1] < 10

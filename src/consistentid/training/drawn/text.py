"""The tokenizer of the drawn preset."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import pre_tokenizers
from torch import Tensor
from transformers import CLIPTokenizer

from consistentid.drawn.pools import Pool, captions, group_captions
from consistentid.files.writing import replacing_folder
from consistentid.pipeline.remarks import TAUGHT, words
from consistentid.training.drawn.recipe import Mixture

SPECIAL = ("<|startoftext|>", "<|endoftext|>")
CONTEXT = 77
_TEXTS = 8000  # captions of a pool that are read


def open_tokenizer(mixture: Mixture, vocabulary: int, folder: Path) -> CLIPTokenizer:
    """The CLIP tokenizer (byte-level BPE, lower case) of ``folder``, learnt from captions if it is not there yet.

    Its text encoder is taught captions of portraits, so their words become tokens; the UNet is taught those of groups,
    too, so the words of all are named in its configuration.
    """
    if not (folder / "tokenizer_config.json").exists():
        texts = _texts(mixture.portraits)
        taught = {word.lower() for text in (*texts, *_group_texts(mixture)) for word in words(text)}
        # Every byte, inside and at the end of a word, so that no text ever meets the unknown token.
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        base = [*alphabet, *(a + "</w>" for a in alphabet)]
        learner = CLIPTokenizer(vocab={w: i for i, w in enumerate([*base, *SPECIAL])}, merges=[])
        learnt = learner.train_new_from_iterator(texts, vocabulary, show_progress=False)
        merges = [tuple(m) for m in json.loads(learnt.backend_tokenizer.to_str())["model"]["merges"]]
        tokens = dict.fromkeys([*base, *("".join(m) for m in merges), *SPECIAL])
        vocab = {w: i for i, w in enumerate(tokens)}
        told = {"model_max_length": CONTEXT, TAUGHT: sorted(taught)}
        with replacing_folder(folder) as whole:
            CLIPTokenizer(vocab=vocab, merges=merges, **told).save_pretrained(whole)
    return CLIPTokenizer.from_pretrained(folder)


def _texts(pool: Pool) -> list[str]:
    return [text for c in captions(pool, _some(pool), seed=0) for text in (c.image, c.face)]


def _group_texts(mixture: Mixture) -> list[str]:
    return [c.image for pool in mixture.groups for c in group_captions(pool, _some(pool), seed=0)]


def _some(pool: Pool) -> NDArray[np.int64]:
    return np.random.default_rng(0).permutation(len(pool))[:_TEXTS]


def tokenize(tokenizer: CLIPTokenizer, texts: list[str], padding: str = "max_length") -> Tensor:
    """Token ids (B, 77), padded and cut; with padding "longest" no longer than the longest text."""
    ids: Tensor = tokenizer(texts, padding=padding, max_length=CONTEXT, truncation=True, return_tensors="pt").input_ids
    return ids

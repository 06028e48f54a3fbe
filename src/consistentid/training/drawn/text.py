"""The tokenizer of the drawn preset."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from tokenizers import pre_tokenizers
from torch import Tensor
from transformers import CLIPTokenizer

from consistentid.drawn.pools import Pool, captions
from consistentid.files.writing import replacing_folder

SPECIAL = ("<|startoftext|>", "<|endoftext|>")
CONTEXT = 77


def open_tokenizer(pool: Pool, vocabulary: int, folder: Path) -> CLIPTokenizer:
    """The CLIP tokenizer (byte-level BPE, lower case) of ``folder``, learnt from captions if it is not there yet."""
    if not (folder / "tokenizer_config.json").exists():
        rows = np.random.default_rng(0).permutation(len(pool))[:8000]
        texts = [text for c in captions(pool, rows, seed=0) for text in (c.image, c.face)]
        # Every byte, inside and at the end of a word, so that no text ever meets the unknown token.
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        base = [*alphabet, *(a + "</w>" for a in alphabet)]
        learner = CLIPTokenizer(vocab={w: i for i, w in enumerate([*base, *SPECIAL])}, merges=[])
        learnt = learner.train_new_from_iterator(texts, vocabulary, show_progress=False)
        merges = [tuple(m) for m in json.loads(learnt.backend_tokenizer.to_str())["model"]["merges"]]
        words = dict.fromkeys([*base, *("".join(m) for m in merges), *SPECIAL])
        vocab = {w: i for i, w in enumerate(words)}
        with replacing_folder(folder) as whole:
            CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=CONTEXT).save_pretrained(whole)
    return CLIPTokenizer.from_pretrained(folder)


def tokenize(tokenizer: CLIPTokenizer, texts: list[str], padding: str = "max_length") -> Tensor:
    """Token ids (B, 77), padded and cut; with padding "longest" no longer than the longest text."""
    ids: Tensor = tokenizer(texts, padding=padding, max_length=CONTEXT, truncation=True, return_tensors="pt").input_ids
    return ids

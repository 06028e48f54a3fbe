"""The CLIP pair: text and pictures in one space, by contrast.

Half of every batch shows whole portraits with their captions, half shows single facial parts, cut out as the adapter
will see them, with a phrase each ("narrow blue eyes"), so that the image encoder knows both. Words tell parts only
roughly, so the parts are also held against one another: each comes from two scenes of its owner, and has to be found
among the same part of other people.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    CLIPImageProcessorPil,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from consistentid.drawn.pools import Pool, captions, copied, pixels
from consistentid.drawn.portraits.captions import part_phrases
from consistentid.faces.parts import PARTS, part_pictures
from consistentid.files.claims import in_turn
from consistentid.files.devices import exactly
from consistentid.files.writing import replacing_folder
from consistentid.training.drawn.loop import Losses, gathered, train
from consistentid.training.drawn.recipe import Recipe, arguments
from consistentid.training.drawn.text import CONTEXT, open_tokenizer, tokenize
from consistentid.training.schedule import batched

NORMAL = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}  # pixels in [-1, 1]


class ClipPair(nn.Module):
    """Text and vision encoder with the temperature of their contrast."""

    def __init__(self, text: CLIPTextModelWithProjection, vision: CLIPVisionModelWithProjection) -> None:
        super().__init__()
        self.text, self.vision = text, vision
        self.log_scale = nn.Parameter(torch.tensor(2.5))

    def embed_text(self, tokens: Tensor) -> Tensor:
        """Unit vectors (B, D) of texts (B, T)."""
        return F.normalize(self.text(input_ids=tokens).text_embeds.float(), dim=-1)

    def embed_images(self, pictures: Tensor) -> Tensor:
        """Unit vectors (B, D) of pictures (B, 3, H, W)."""
        return F.normalize(self.vision(pixel_values=pictures).image_embeds.float(), dim=-1)


def part_crops(pool: Pool, rows: NDArray[np.int64], size: int) -> list[dict[str, NDArray[np.uint8]]]:
    """For each row the visible parts as (size, size, 3) uint8 pictures."""
    out = []
    for row in rows:
        cut = part_pictures(Image.fromarray(pool.images[row]), np.asarray(pool.labels[row]))
        out.append({k: np.asarray(v.resize((size, size), Image.Resampling.BICUBIC)) for k, v in cut.items()})
    return out


@dataclass(frozen=True)
class _Batch:
    """Pictures (B, H, W, 3) uint8 and texts of a step, with their tokens (B, T); ``owners`` as of `_parts_batch`."""

    whole: Tensor
    texts: list[str]
    tokens: Tensor
    here: Tensor
    there: Tensor
    phrases: list[str]
    phrase_tokens: Tensor
    owners: Tensor


def _batch(pool: Pool, tokenizer: CLIPTokenizer, rows: NDArray[np.int64], seed: int) -> _Batch:
    half = len(rows) // 2
    whole = np.sort(rows[:half])
    here, there, phrases, owners = _parts_batch(pool, np.sort(rows[half:]), seed)
    told = captions(pool, whole, seed)
    texts = [f"{c.image}. {c.face}" if i % 2 else c.image for i, c in enumerate(told)]
    ids, phrase_ids = (tokenize(tokenizer, x, padding="longest") for x in (texts, phrases))
    return _Batch(
        copied(pool.images, whole), texts, ids, torch.from_numpy(here), torch.from_numpy(there), phrases, phrase_ids,
        torch.from_numpy(owners),
    )  # fmt: skip


def _parts_batch(
    pool: Pool, rows: NDArray[np.int64], seed: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], list[str], NDArray[np.int64]]:
    """For each row one random part, seen in that row's scene and in another one of the same person.

    Returns:
        pictures (B, size, size, 3) of the rows' own scenes, and of the others; the phrase of each row's part; and for
        each row (part, person), (B, 2). A row whose scenes have no part in common shows the whole pictures as "face".
    """
    people, _ = pool.tables(rows)
    rng = np.random.default_rng(seed)
    scenes = pool.spec.scenes
    others = rows // scenes * scenes + (rows % scenes + rng.integers(1, max(2, scenes), len(rows))) % scenes
    first, second, texts, owners = [], [], [], []
    cuts = zip(part_crops(pool, rows, pool.spec.size), part_crops(pool, others, pool.spec.size), strict=True)
    for i, (here, there) in enumerate(cuts):
        names = [name for name in PARTS if name in here and name in there] or ["face"]
        name = names[rng.integers(len(names))]
        first.append(here.get(name, pool.images[rows[i]]))
        second.append(there.get(name, pool.images[others[i]]))
        texts.append(part_phrases(people, i)[name])
        owners.append((PARTS.index(name), int(rows[i]) // scenes))
    return np.stack(first), np.stack(second), texts, np.array(owners)


def part_contrast(first: Tensor, second: Tensor, owners: Tensor, scale: Tensor) -> Tensor:
    """Symmetric cross-entropy of finding each part's owner in another scene, among the same part of others.

    first, second: unit vectors (B, D); owners: (B, 2), part and person of each row. Over the samples of all processes.
    """
    first, second, owners = gathered(first), gathered(second), gathered(owners)
    comparable = owners[:, None, 0] == owners[None, :, 0]
    target = (comparable & (owners[:, None, 1] == owners[None, :, 1])).float()
    target = target / target.sum(-1, keepdim=True)
    with exactly(first.device):
        logits = (scale * first @ second.T).masked_fill(~comparable, -1e4)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def contrast(text: Tensor, image: Tensor, scale: Tensor, texts: list[str]) -> Tensor:
    """Symmetric cross-entropy, over the samples of all processes, in which equal texts are all right answers."""
    names = [int.from_bytes(sha256(t.encode()).digest()[:8], "big", signed=True) for t in texts]
    index = gathered(torch.tensor(names, device=text.device))
    text, image = gathered(text), gathered(image)
    target = (index[:, None] == index[None, :]).float()
    target = target / target.sum(-1, keepdim=True)
    with exactly(text.device):
        logits = scale * text @ image.T
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def train_clip(recipe: Recipe, out: Path, device: torch.device) -> None:
    """Train and save ``out/tokenizer``, ``out/text_encoder`` and ``out/image_encoder``; reports retrieval accuracy."""
    section = recipe.section("clip")
    mixture, held_out = recipe.mixture("train"), recipe.pool("validation")
    pool = mixture.portraits
    with in_turn(out / "tokenizer"):
        tokenizer = open_tokenizer(mixture, section.options["vocabulary"], out / "tokenizer")
    torch.manual_seed(section.schedule.seed)
    ends = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    sizes = {
        part: arguments(kind, section.network.get(part, {}), f"{section.where}: network.{part}")
        for part, kind in (("text", CLIPTextConfig), ("vision", CLIPVisionConfig))
    }
    text_config = CLIPTextConfig(vocab_size=len(tokenizer), max_position_embeddings=CONTEXT, **ends, **sizes["text"])
    vision_config = CLIPVisionConfig(image_size=recipe.size, **sizes["vision"])
    pair = ClipPair(CLIPTextModelWithProjection(text_config), CLIPVisionModelWithProjection(vision_config)).to(device)

    def loss(batch: _Batch, _generator: torch.Generator) -> Losses:
        pictures = torch.cat([pixels(x, device) for x in (batch.whole, batch.here, batch.there)])
        sizes = [len(x) for x in (batch.whole, batch.here, batch.there)]
        image, first, second = torch.split(pair.embed_images(pictures), sizes)
        scale = pair.log_scale.exp().clamp(max=100)
        texts, phrases = (pair.embed_text(x.to(device)) for x in (batch.tokens, batch.phrase_tokens))
        scenes = contrast(texts, image, scale, batch.texts)
        parts = contrast(phrases, first, scale, batch.phrases)
        people = part_contrast(first, second, batch.owners.to(device), scale)
        return {"loss": scenes + parts + people, "scenes": scenes, "parts": parts, "people": people}

    @torch.no_grad()
    def report() -> dict[str, float]:
        rows = np.arange(0, len(held_out), len(held_out) // 256)[:256]
        told = captions(held_out, rows, seed=1)
        text, image = [], []
        for part in batched(len(rows), 64):
            texts = [f"{c.image}. {c.face}" for c in told[part]]
            text.append(pair.embed_text(tokenize(tokenizer, texts, padding="longest").to(device)))
            image.append(pair.embed_images(pixels(held_out.images[rows[part]], device)))
        similarity = torch.cat(text) @ torch.cat(image).T
        truth = torch.arange(len(rows), device=device)
        ranks = (similarity >= similarity.diagonal()[:, None]).sum(-1)
        return {
            "text_to_image_top1_of_256": float((similarity.argmax(-1) == truth).float().mean()),
            "image_to_text_top1_of_256": float((similarity.argmax(0) == truth).float().mean()),
            "text_to_image_top5_of_256": float((ranks <= 5).float().mean()),
        }

    schedule, precision = section.schedule, recipe.precision
    if train(
        "clip", pair, loss, schedule, len(pool), out, device=device, prepared=partial(_batch, pool, tokenizer),
        workers=recipe.ahead, report=report, precision=precision,
    ):  # fmt: skip
        with replacing_folder(out / "text_encoder") as folder:
            pair.text.half().save_pretrained(folder)
        size = recipe.size
        processor = CLIPImageProcessorPil(
            size={"shortest_edge": size}, crop_size={"height": size, "width": size}, **NORMAL
        )
        with replacing_folder(out / "image_encoder") as folder:
            pair.vision.half().save_pretrained(folder)
            processor.save_pretrained(folder)

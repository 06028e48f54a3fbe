"""What a training shows of itself: portraits of fixed people and prompts, and where the facial words look."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from consistentid.adapter.identify import IdentityEncoder
from consistentid.adapter.identity import Identity
from consistentid.files.images import load_image
from consistentid.pipeline.attention import attention_sheet, word_attention
from consistentid.pipeline.request import Request
from consistentid.pipeline.sampling import Sampler
from consistentid.presets.loading import load_analyzer
from consistentid.presets.settings import Settings
from consistentid.training.config import Validation
from consistentid.training.frozen import FrozenNetworks
from consistentid.training.model import AdapterOnBase


def identities(options: Validation, frozen: FrozenNetworks, model: AdapterOnBase) -> list[Identity]:
    """The people of a recipe's validation.

    Raises:
        InputError, FaceError: a picture cannot be read, or shows no single face.
    """
    spec = model.cid.spec
    encoder = IdentityEncoder(
        load_analyzer(frozen.preset, frozen.device),
        frozen.image_encoder,
        frozen.processor,
        part_layout=spec.part_layout,
        canvas_size=spec.canvas_size,
        provenance=frozen.provenance,
    )
    return [encoder.encode(load_image(path), names=[str(path)]) for path in options.references]


@torch.no_grad()
def sheet(options: Validation, people: Sequence[Identity], frozen: FrozenNetworks, model: AdapterOnBase) -> Image.Image:
    """All people with all prompts: each portrait, and beside it the attention of each facial word.

    The model is as it was afterwards.
    """
    model.switch(base_alone=False)
    side = model.config.size
    settings = Settings(
        steps=options.steps, guidance_scale=options.guidance_scale, scale=model.config.id_scale, width=side, height=side
    )
    sampler = Sampler(frozen.pipe, model.cid)
    shown = [
        word_attention(sampler, Request(who, prompt, seed=options.seed), settings, model.recorder)
        for who in people
        for prompt in options.prompts
    ]
    return attention_sheet(shown, [load_image(path) for path in options.references])


def validation_path(run: Path, step: int) -> Path:
    """Where the sheet of a step is kept."""
    return run / "validation" / f"step-{step:06d}.png"

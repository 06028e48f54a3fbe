"""Where the words for facial parts look, drawn over the picture that came of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn.functional import interpolate

from consistentid.adapter import encoding
from consistentid.adapter.identity import Identity
from consistentid.adapter.prompt import compose, facial_sentence
from consistentid.files.images import contact_sheet
from consistentid.pipeline.pipeline import ConsistentIDPipeline
from consistentid.training.attention import AttentionRecorder

_GLOW = (255, 40, 0)


def word_attention(
    studio: ConsistentIDPipeline, who: Identity, prompt: str, seed: int
) -> tuple[Image.Image, dict[str, NDArray[np.float32]]]:
    """One picture, and for each facial word the text cross-attention that it got.

    Returns:
        The picture, and part -> (h, w) float32 at the latents' size, mean over the steps since the merge and over the
        layers of the localisation loss, 0 to 1 with 1 where the word looks most.
    """
    pipe, settings, spec = studio.pipe, studio.preset.settings, studio.adapter.spec
    sentence = who.face_text or facial_sentence(spec, who.visible_parts)
    count, limit = encoding.token_counter(pipe), encoding.context_length(pipe)
    text = compose(prompt, sentence, who.visible_parts, spec, count, limit)
    rows = 2 if encoding.is_guided(pipe, settings.guidance_scale) else 1
    positions = torch.tensor([text.positions], device=pipe.unet.device).expand(rows, -1)
    height, width = (
        (side or _default_side(pipe)) // pipe.vae_scale_factor for side in (settings.height, settings.width)
    )
    total = torch.zeros(len(text.words), height, width)

    def add(_pipe: Any, step: int, _timestep: Any, _tensors: dict[str, Any]) -> dict[str, Any]:
        if step > settings.merge_at * settings.steps:
            for one in maps.values():
                # of the row under guidance that follows the prompt
                total.add_(interpolate(one[None, -1].float().cpu(), (height, width), mode="bilinear")[0])
        return {}

    studio.adapter.scale = settings.scale
    with AttentionRecorder(pipe.unet).recording(positions, (height, width)) as maps:
        inputs = studio.adapter.inputs(
            who,
            prompt,
            settings.negative_prompt or None,
            merge_at=settings.merge_at,
            guidance_scale=settings.guidance_scale,
            callback=add,
        )
        image = pipe(
            **inputs,
            num_inference_steps=settings.steps,
            height=height * pipe.vae_scale_factor,
            width=width * pipe.vae_scale_factor,
            generator=torch.Generator("cpu").manual_seed(seed),
        ).images[0]
    heat = total / total.amax((1, 2), keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    return image, dict(zip(text.words, heat.numpy(), strict=True))


def attention_sheet(image: Image.Image, maps: dict[str, NDArray[np.float32]], tile: int = 160) -> Image.Image:
    """The picture, and beside it once for each word with a glow where that word looks."""
    shown = []
    for heat in maps.values():
        mask = Image.fromarray((heat * 220).astype(np.uint8)).resize(image.size, Image.Resampling.BICUBIC)
        grey = Image.blend(image.convert("L").convert("RGB"), Image.new("RGB", image.size, "white"), 0.25)
        glowing = Image.composite(Image.new("RGB", image.size, _GLOW), grey, mask)
        shown.append(glowing.resize((tile, round(tile * image.height / image.width)), Image.Resampling.BICUBIC))
    picture = image.resize((tile, round(tile * image.height / image.width)), Image.Resampling.BICUBIC)
    return contact_sheet([], [picture, *shown], ["picture", *maps], tile)


def _default_side(pipe: Any) -> int:
    size = pipe.unet.config.sample_size
    return int((size if isinstance(size, int) else size[0]) * pipe.vae_scale_factor)

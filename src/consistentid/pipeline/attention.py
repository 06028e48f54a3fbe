"""Where the words for facial parts look, drawn over the picture that came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn.functional import interpolate

from consistentid.adapter.attention import AttentionRecorder
from consistentid.errors import InputError
from consistentid.files.images import contact_sheet
from consistentid.pipeline.request import Request, Step
from consistentid.pipeline.sampling import Sampler
from consistentid.presets.settings import Settings

_GLOW = (255, 40, 0)


def word_attention(
    sampler: Sampler, request: Request, defaults: Settings, recorder: AttentionRecorder | None = None
) -> tuple[Image.Image, dict[str, NDArray[np.float32]]]:
    """The picture of a request, and for each facial word that the adapter fused the text cross-attention that it got.

    Args:
        sampler: draws it.
        request: of one picture.
        defaults: what it leaves open.
        recorder: of the sampler's UNet; by default one of the layers of the localisation loss.

    Returns:
        The picture, and part -> (h, w) float32 at the latents' size, mean over the steps since the merge and over the
        recorder's layers, 0 to 1 with 1 where the word looks most.

    Raises:
        InputError: a request of several pictures; others as `Sampler.sample` has them.
    """
    if request.base_alone or request.made * len(request.prompts) != 1:
        raise InputError("attention is shown of one picture of a person; give one prompt and num_images_per_prompt=1")
    pipe, settings = sampler.pipe, request.settings(defaults)
    recorder = recorder or AttentionRecorder(pipe.unet)
    words: tuple[str, ...] = ()
    maps: Mapping[str, torch.Tensor] = {}
    total = torch.zeros(0)

    def look(step: Step) -> None:
        nonlocal words, maps, total
        if step.stage == "encoding":
            [text] = step.texts
            width, height = (side // pipe.vae_scale_factor for side in step.size)
            positions = torch.tensor([text.positions], device=pipe.unet.device)
            words, total = text.words, torch.zeros(len(text.words), height, width)
            maps = recorder.watch(positions, (height, width))
        elif step.step > settings.merge_at * step.total or step.step == step.total - 1:
            for one in maps.values():
                # of the row under guidance that follows the prompt
                total.add_(interpolate(one[None, -1].float().cpu(), total.shape[1:], mode="bilinear")[0])

    try:
        [image] = sampler.sample(replace(request, on_step=look), settings).images
    finally:
        recorder.stop()
    heat = total / total.amax((1, 2), keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    return image, dict(zip(words, heat.numpy(), strict=True))


def glowing(image: Image.Image, heat: NDArray[np.float32]) -> Image.Image:
    """The picture in grey, with a glow where `heat` (h, w), 0 to 1, is high."""
    mask = Image.fromarray((heat * 220).astype(np.uint8)).resize(image.size, Image.Resampling.BICUBIC)
    grey = Image.blend(image.convert("L").convert("RGB"), Image.new("RGB", image.size, "white"), 0.25)
    return Image.composite(Image.new("RGB", image.size, _GLOW), grey, mask)


def attention_sheet(
    pictures: Sequence[tuple[Image.Image, Mapping[str, NDArray[np.float32]]]],
    references: Sequence[Image.Image] = (),
    tile: int = 160,
) -> Image.Image:
    """A row for each picture of `word_attention`: the picture, and once for each word with a glow where it looks."""
    words = list(dict.fromkeys(word for _, maps in pictures for word in maps))
    shown, captions = [], []
    for image, maps in pictures:
        size = (tile, round(tile * image.height / image.width))
        for caption in ("picture", *words):
            if caption == "picture":
                tiles = image
            else:
                tiles = glowing(image, maps[caption]) if caption in maps else Image.new("RGB", image.size, "white")
            shown.append(tiles.resize(size, Image.Resampling.BICUBIC))
            captions.append(caption)
    return contact_sheet(references, shown, captions, tile, columns=1 + len(words))

"""What a training shows of itself: portraits of fixed people and prompts, and where the facial words look."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from consistentid.adapter.identify import IdentityEncoder
from consistentid.adapter.identity import Identity
from consistentid.adapter.prompt import compose, facial_sentence
from consistentid.faces.parts import PARTS
from consistentid.files.images import contact_sheet, load_image
from consistentid.presets.loading import load_analyzer
from consistentid.training.config import Validation
from consistentid.training.examples import word_positions
from consistentid.training.frozen import FrozenNetworks
from consistentid.training.model import AdapterOnBase


@dataclass(frozen=True, eq=False)
class Shown:
    """One portrait made in validation.

    Attributes:
        image: RGB.
        attention: part -> (h, w), the attention of its word in the last step, mean over the watched layers.
    """

    image: Image.Image
    attention: Mapping[str, NDArray[np.float32]]


def identities(options: Validation, frozen: FrozenNetworks, model: AdapterOnBase) -> list[Identity]:
    """The people of a recipe's validation.

    Raises:
        InputError, FaceError: a picture cannot be read, or shows no single face.
    """
    spec = model.cid.spec
    encoder = IdentityEncoder(
        load_analyzer(frozen.preset),
        frozen.image_encoder,
        frozen.processor,
        part_layout=spec.part_layout,
        canvas_size=spec.canvas_size,
        provenance=frozen.provenance,
    )
    return [encoder.encode(load_image(path), names=[path]) for path in options.references]


@torch.no_grad()
def portray(options: Validation, who: Identity, prompt: str, frozen: FrozenNetworks, model: AdapterOnBase) -> Shown:
    """One portrait, and where its facial words look; the model is as it was afterwards."""
    pipe, cid = frozen.pipe, model.cid
    model.switch(base_alone=False)
    visible = who.visible_parts
    text = compose(prompt, facial_sentence(cid.spec, visible), visible, cid.spec, frozen.count, frozen.limit)
    positions, used = word_positions([text])
    inputs = cid.inputs(who, prompt, guidance_scale=options.guidance_scale)
    guided = 2 if "negative_prompt_embeds" in inputs else 1
    side = model.config.size // pipe.vae_scale_factor
    with model.recorder.recording(positions.expand(guided, -1).to(frozen.device), (side, side)) as maps:
        image = pipe(
            **inputs,
            num_inference_steps=options.steps,
            height=model.config.size,
            width=model.config.size,
            generator=torch.Generator("cpu").manual_seed(options.seed),
        ).images[0]
    heat = mean_map(list(maps.values()), (side, side))[-1]  # the last row is the prompt's, before it is the negative's
    return Shown(image, {part: heat[i].numpy() for i, part in enumerate(PARTS) if used[0, i]})


def mean_map(maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """Mean over layers of attention maps (B, N, ., .), each divided by its maximum, at one size (B, N, h, w)."""
    resized = []
    for each in maps:
        scaled = each.float().cpu() / each.float().cpu().amax((-2, -1), keepdim=True).clamp(min=1e-8)
        resized.append(F.interpolate(scaled, size, mode="bilinear"))
    return torch.stack(resized).mean(0)


def overlay(image: Image.Image, attention: NDArray[np.float32]) -> Image.Image:
    """The picture in grey under its attention (h, w) in [0, 1] as red, the darkest and the brightest place apart."""
    spread = attention - attention.min()
    heat = Image.fromarray((255 * spread / max(float(spread.max()), 1e-8)).astype(np.uint8))
    heat = heat.resize(image.size, Image.Resampling.BICUBIC)
    grey = image.convert("L").point(lambda v: v // 2 + 64).convert("RGB")
    return Image.composite(Image.new("RGB", image.size, (255, 40, 20)), grey, heat.point(lambda v: v * 3 // 4))


def sheet(options: Validation, people: Sequence[Identity], frozen: FrozenNetworks, model: AdapterOnBase) -> Image.Image:
    """All people with all prompts: each portrait, and beside it the attention of each facial word."""
    pictures, captions = [], []
    for who in people:
        for prompt in options.prompts:
            shown = portray(options, who, prompt, frozen, model)
            pictures.append(shown.image)
            captions.append("portrait")
            for part in PARTS:
                blank = Image.new("RGB", shown.image.size, "white")
                pictures.append(overlay(shown.image, shown.attention[part]) if part in shown.attention else blank)
                captions.append(part)
    references = [load_image(path) for path in options.references]
    return contact_sheet(references, pictures, captions, columns=1 + len(PARTS))


def validation_path(run: Path, step: int) -> Path:
    """Where the sheet of a step is kept."""
    return run / "validation" / f"step-{step:06d}.png"

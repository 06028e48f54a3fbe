"""Pictures that a user brings along, as a diffusers pipeline wants them: to start from, to keep, to follow."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from consistentid.adapter.merge import Callback
from consistentid.adapter.regions import Regions
from consistentid.errors import InputError
from consistentid.pipeline.canvas import Canvas
from consistentid.pipeline.request import Request
from consistentid.presets.settings import Settings


def call_arguments(
    pipe: Any, request: Request, canvas: Canvas | None, settings: Settings, size: tuple[int, int], batch: int
) -> dict[str, Any]:
    """The (width, height) of what is drawn, and what a pipeline that takes given pictures wants of them."""
    known = inspect.signature(type(pipe).__call__).parameters
    arguments: dict[str, Any] = dict(zip(("width", "height"), size, strict=True)) if "width" in known else {}
    if canvas is None:
        return arguments
    image, mask, control = request.pictures
    if image:
        # one for each picture, so that each is encoded with noise of its own seed
        arguments |= {"image": [canvas.cut(image)] * batch, "strength": settings.strength}
    if mask and "mask_image" in known:
        arguments["mask_image"] = canvas.cut(mask)
    if control:
        arguments["control_image" if image else "image"] = canvas.cut(control)
        arguments["controlnet_conditioning_scale"] = float(settings.control_scale)
    return arguments


def check_base(pipe: Any, request: Request) -> None:
    """Makes sure that a base for inpainting, whose UNet also reads a mask and what is around it, gets them.

    Raises:
        InputError: it does not.
    """
    if pipe.unet.config.in_channels != pipe.vae.config.latent_channels and request.mask is None:
        raise InputError(
            "this base is made for inpainting: it needs a picture and a mask of what is drawn anew (--image and --mask)"
            "; for anything else choose another base"
        )


def inpaints(pipe: Any) -> bool:
    """Whether diffusers' inpainting knows latents like these."""
    return pipe.unet.config.in_channels in (4, 9)


@torch.no_grad()
def keeping(pipe: Any, image: Image.Image, mask: Image.Image, seeds: Sequence[int]) -> Callback:
    """A callback that makes of img2img what `inpaints` lacks: unmasked latents follow the picture, noised as the rest.

    Args:
        pipe: an img2img pipeline.
        image, mask: of the size that is sampled.
        seeds: of the pictures of a batch.
    """
    vae = pipe.vae
    pixels = pipe.image_processor.preprocess(image).to(pipe._execution_device, vae.dtype)
    start = vae.encode(pixels).latent_dist.mode() * vae.config.scaling_factor
    noise = [torch.randn(start.shape, generator=torch.Generator("cpu").manual_seed(seed)) for seed in seeds]
    noises = torch.cat(noise).to(start)
    white = torch.from_numpy(np.asarray(mask) >= 128).to(start)[None, None]
    free = torch.nn.functional.interpolate(white, start.shape[-2:]).bool()

    def keep(pipe: Any, step: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        left = pipe.num_timesteps - step - 1
        known = start.expand_as(noises)
        if left:
            known = pipe.scheduler.add_noise(known, noises, pipe.scheduler.timesteps[-left:][:1])
        return {"latents": torch.where(free, tensors["latents"], known.to(tensors["latents"]))}

    return keep


def regions_in(request: Request, canvas: Canvas | None, size: tuple[int, int]) -> Regions | None:
    """The regions of a request as parts of what is sampled."""
    if (regions := request.places) is None:
        return None
    if canvas is None:
        regions.check_shape(size[1], size[0])
        return regions
    image, _, control = request.pictures
    picture = image or control
    return regions.within(canvas.box, picture.size) if picture else regions

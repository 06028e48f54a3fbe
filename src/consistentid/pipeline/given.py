"""Pictures given to a call, to start from, to keep outside a mask, to follow: from files to a pipeline's arguments."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np
import torch
from PIL import Image

from consistentid.adapter.merge import Callback
from consistentid.errors import InputError
from consistentid.files.images import load_image, to_rgb
from consistentid.pipeline.canvas import Canvas
from consistentid.presets.preset import Settings

Photo = str | PathLike[str] | Image.Image
"""A path or a Pillow image."""


@dataclass(frozen=True)
class Given:
    """The pictures of a call.

    Attributes:
        image: RGB, to start from.
        mask: "L" of its size, white where it is drawn anew.
        control: RGB, for the ControlNet; of the size of `image` if there is one.
    """

    image: Image.Image | None
    mask: Image.Image | None
    control: Image.Image | None

    @classmethod
    def read(cls, image: Photo | None, mask: Photo | None, control: Photo | None) -> Given:
        """Pictures from paths or Pillow images.

        Raises:
            InputError: they cannot be read or do not go together.
        """
        if mask is not None and image is None:
            raise InputError("mask says what of image is drawn anew; give image, too")
        start = None if image is None else read_photo(image, "image")
        area = None if mask is None else read_photo(mask, "mask").convert("L")
        follow = None if control is None else read_photo(control, "control")
        if start and area and start.size != area.size:
            raise InputError(f"the mask is {_size(area)} pixels, the image {_size(start)}; give a mask of its size")
        if start and follow:
            # the same shape but for rounding: squeezed into another one it would lead astray
            if not math.isclose(start.width / start.height, follow.width / follow.height, rel_tol=0.02):
                raise InputError(
                    f"control is {_size(follow)} pixels, the image {_size(start)}; give a control picture of its shape"
                )
            follow = follow.resize(start.size, Image.Resampling.LANCZOS)
        return cls(start, area, follow)

    def canvas(self, base: tuple[int, int]) -> Canvas | None:
        """What of the given pictures is sampled; None without any."""
        if self.mask:
            return Canvas.around(self.mask, base)
        leading = self.image or self.control
        return Canvas.whole(leading.size, base) if leading else None


def read_photo(photo: Photo, name: str) -> Image.Image:
    """An RGB picture of a path, or of a Pillow image, for which `name` stands in messages."""
    return to_rgb(photo, name) if isinstance(photo, Image.Image) else load_image(photo)


def _size(image: Image.Image) -> str:
    return f"{image.width}x{image.height}"


def call_arguments(pipe: Any, given: Given, canvas: Canvas | None, settings: Settings, batch: int) -> dict[str, Any]:
    """What the pipeline of `ConsistentIDPipeline._pipe_for` wants besides the text."""
    if canvas is None:
        return {"width": settings.width or None, "height": settings.height or None}
    known = inspect.signature(type(pipe).__call__).parameters
    arguments: dict[str, Any] = dict(zip(("width", "height"), canvas.size, strict=True)) if "width" in known else {}
    if given.image:
        # one for each picture, so that each is encoded with noise of its own seed
        arguments |= {"image": [canvas.cut(given.image)] * batch, "strength": settings.strength}
    if given.mask and "mask_image" in known:
        arguments["mask_image"] = canvas.cut(given.mask)
    if given.control:
        arguments["control_image" if given.image else "image"] = canvas.cut(given.control)
        arguments["controlnet_conditioning_scale"] = float(settings.control_scale)
    return arguments


def check_base(pipe: Any, given: Given) -> None:
    """Makes sure that a base for inpainting, whose UNet also reads a mask and what is around it, gets them.

    Raises:
        InputError: it does not.
    """
    if pipe.unet.config.in_channels != pipe.vae.config.latent_channels and not given.mask:
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

"""Base pipelines of the two families at tiny size, made once a session from the recipe in `golden/`."""

from __future__ import annotations

import copy
import gc
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vectors import ID_DIM, VARIANTS, WIDTH  # isort: skip
import build  # isort: skip
import synth  # isort: skip

from consistentid.adapter.identity import Identity
from consistentid.adapter.spec import AdapterSpec
from consistentid.faces.parts import PARTS, part_pictures

pytest_plugins = ["small_networks"]

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # of tests that import onnxruntime by themselves


gc.disable()  # until all is imported, and what was stays: to look through it for garbage took a tenth of all time


def pytest_collection_finish() -> None:
    """From here on there is garbage, but among nothing that was imported, and networks are no hurry."""
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)
    gc.enable()


@pytest.fixture(scope="session")
def golden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with micro15/ and microxl/: pipe/, image_encoder/, ConsistentID-v1.bin."""
    folder = tmp_path_factory.mktemp("golden")
    for variant in VARIANTS:
        build.build(str(folder), variant)
    return folder


@pytest.fixture(scope="session")
def _bases(golden: Path) -> dict[str, Any]:
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

    classes = {"micro15": StableDiffusionPipeline, "microxl": StableDiffusionXLPipeline}
    return {variant: cls.from_pretrained(golden / variant / "pipe") for variant, cls in classes.items()}


@pytest.fixture(scope="session")
def base(_bases: dict[str, Any]) -> Callable[[str], Any]:
    """Makes a text-to-image pipeline of a variant, with a UNet of its own."""

    def make(variant: str) -> Any:
        original = _bases[variant]
        pipe = type(original)(**(original.components | {"unet": copy.deepcopy(original.unet)}))
        pipe.set_progress_bar_config(disable=True)
        return pipe

    return make


@pytest.fixture(scope="session")
def golden_identity(golden: Path) -> Callable[..., Identity]:
    """Makes the identity of the recorded runs from the synthetic photo, as the released weights want it.

    Both families' runs were recorded with the same photo and, "face" and "no_ears", with parsing maps of 256 pixels.
    """
    from transformers import CLIPImageProcessorPil, CLIPVisionModelWithProjection

    processor = CLIPImageProcessorPil()
    photo = Image.fromarray(synth.photo(300, 220))
    maps = {
        "face": synth.face(256, 256),
        "no_ears": synth.face(256, 256, ears=False),
        "only_background": synth.maps()["only_background"],
    }

    provenance = AdapterSpec.released("sd15").networks

    @cache
    @torch.no_grad()
    def features(variant: str, map: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        encoder = CLIPVisionModelWithProjection.from_pretrained(golden / variant / "image_encoder")
        pictures = part_pictures(photo, maps[map], "canvas", canvas_size=1280 if variant == "microxl" else 512)
        pixels = processor(images=[photo, *pictures.values()], return_tensors="pt").pixel_values
        pixels = torch.cat([pixels, torch.zeros_like(pixels[:1])])
        whole, *parts, blank = encoder(pixels, output_hidden_states=True).hidden_states[-2]
        by_name = dict(zip(pictures, parts, strict=True))
        mask = torch.tensor([part in pictures for part in PARTS])
        return whole, torch.stack([by_name.get(part, blank) for part in PARTS]), mask, blank

    def make(variant: str, map: str, embedding: np.ndarray) -> Identity:
        return Identity(torch.from_numpy(embedding), *features(variant, map), {**provenance, "part_layout": "canvas"})

    return make


@pytest.fixture(scope="session")
def person() -> Callable[..., Identity]:
    """Makes an identity of random features, enough where only its influence matters; by the released networks."""
    released = AdapterSpec.released("sd15").networks

    def make(seed: int = 0, *, hidden: tuple[str, ...] = (), **provenance: str) -> Identity:
        random = torch.Generator().manual_seed(seed)
        return Identity(
            embedding=torch.nn.functional.normalize(torch.randn(ID_DIM, generator=random), dim=0),
            face_features=torch.randn(5, WIDTH, generator=random),
            part_features=torch.randn(len(PARTS), 5, WIDTH, generator=random),
            part_mask=torch.tensor([part not in hidden for part in PARTS]),
            blank_features=torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(99)),
            provenance={**released, **provenance},
        )

    return make

"""`torch.inference_mode()`, in which ComfyUI runs every node, leaves nothing behind that works only there."""

from __future__ import annotations

import torch

import tiny
from consistentid.pipeline.pipeline import ConsistentIDPipeline

PROMPT = "a woman in a red hat"


def test_networks_first_used_there_work_everywhere() -> None:
    def draw() -> bytes:
        (image,) = studio(studio.identify(tiny.portrait()), PROMPT, seed=1).images
        return image.tobytes()

    studio = ConsistentIDPipeline.from_preset(tiny.preset(), device="cpu")
    expected = draw()
    studio = ConsistentIDPipeline.from_preset(tiny.preset(), device="cpu")
    with torch.inference_mode():
        assert draw() == expected
        assert draw() == expected
    assert draw() == expected
    networks = [studio.pipe.unet, studio.pipe.vae, studio.encoder.image_encoder, studio.adapter.facial_encoder]
    assert not any(x.is_inference() for network in networks for x in network.parameters())

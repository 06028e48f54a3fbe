"""Training steps in bfloat16 against float32, in turn, of the networks of a recipe.

    OMP_NUM_THREADS=1 python benchmarks/precision.py [--recipe recipes/drawn.yaml] [--batch 32] [--rounds 5]

A step is that of `consistentid.training.drawn.loop`: forward and backward under autocast, weights channels last where
bfloat16 computes, AdamW in float32. The ratio is that of the medians; the first line is what
``precision: auto`` goes by.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import click
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    SegformerConfig,
    SegformerForSemanticSegmentation,
)

from consistentid.nn.patch_autoencoder import PatchAutoencoderKL
from consistentid.training.drawn.onnx_network import Network
from consistentid.training.drawn.recipe import Recipe
from consistentid.training.precision import bfloat16_speedup, computing, laid_out

CPU = torch.device("cpu")


def networks(recipe: Recipe, batch: int) -> dict[str, tuple[nn.Module, Callable[[nn.Module], Tensor]]]:
    """Network by section of the recipe, and what it makes of a batch of noise."""
    size = recipe.size
    pictures = torch.randn(batch, 3, size, size)
    vae = PatchAutoencoderKL(sample_size=size, **recipe.section("autoencoder").network)
    channels = vae.config.latent_channels
    latents = vae.encode(pictures, return_dict=False)[0].mean.detach()
    clip = recipe.section("clip").network
    width = clip["text"]["hidden_size"]
    text, time_ = torch.randn(batch, 40, width), torch.full((batch,), 500)
    unet = UNet2DConditionModel(
        in_channels=channels, out_channels=channels, sample_size=latents.shape[-1], cross_attention_dim=width,
        **recipe.section("unet").network,
    )  # fmt: skip
    vision = CLIPVisionModelWithProjection(CLIPVisionConfig(image_size=size, **clip["vision"]))
    parser = SegformerForSemanticSegmentation(SegformerConfig(num_labels=19, **recipe.section("parser").network))
    reader = Network(size, 40, **recipe.section("scene_reader").network)
    faces = torch.randn(batch, 3, 112, 112)
    recogniser = Network(112, 512, **recipe.section("recogniser").network)
    return {
        "unet": (unet, lambda network: network(latents, time_, text).sample),
        "decoder": (vae.decoder, lambda network: network(latents)),
        "clip": (vision, lambda network: network(pixel_values=pictures).image_embeds),
        "parser": (parser, lambda network: network(pixel_values=pictures).logits),
        "scene_reader": (reader, lambda network: network(pictures)),
        "recogniser": (recogniser, lambda network: network(faces)),
    }


def stepper(network: nn.Module, forward: Callable[[nn.Module], Tensor], precision: str) -> Callable[[], float]:
    """A function that takes a training step and returns the seconds of one core that it took."""
    learner = laid_out(deepcopy(network), precision).train()
    optimiser = torch.optim.AdamW(learner.parameters(), lr=1e-4)

    def step() -> float:
        began = time.process_time()
        optimiser.zero_grad(set_to_none=True)
        with computing(precision, CPU):
            out = forward(learner)
        torch.autograd.backward(out.float().square().mean())
        optimiser.step()
        return time.process_time() - began

    return step


@click.command()
@click.option("--recipe", default=Path("recipes/drawn.yaml"), type=click.Path(path_type=Path), show_default=True)
@click.option("--batch", default=32, show_default=True)
@click.option("--rounds", default=5, show_default=True)
def main(recipe: Path, batch: int, rounds: int) -> None:
    """Compare the two precisions."""
    print(f"matrix products: bfloat16 {bfloat16_speedup(CPU):.2f} times as fast")
    for name, (network, forward) in networks(Recipe(recipe, Path()), batch).items():
        steps = {precision: stepper(network, forward, precision) for precision in ("float32", "bfloat16")}
        times: dict[str, list[float]] = {precision: [] for precision in steps}
        for _ in range(rounds + 1):  # the first is to get warm
            for precision, step in steps.items():
                times[precision].append(step())
        median = {precision: statistics.median(found[1:]) for precision, found in times.items()}
        each = ", ".join(
            f"{precision} {batch / seconds:.1f} pictures a core-second" for precision, seconds in median.items()
        )
        print(f"{name}: {each}, {median['float32'] / median['bfloat16']:.2f} times as fast")


if __name__ == "__main__":
    main()

"""How much faster the drawn preset's networks train with plain attention than with the fused one, on one thread.

``python benchmarks/attention_training.py [--repeats 5]`` prints a JSON line: seconds of a step (forward, backward) of
CLIP's image encoder and of the UNet with each, side by side, and their ratios.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import click
import numpy as np
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from consistentid.training.attention import fused_attention, plain_attention
from consistentid.training.precision import computing, laid_out, resolve_precision

CPU = torch.device("cpu")


def vision() -> tuple[nn.Module, Callable[[nn.Module], Tensor]]:
    """CLIP's image encoder of `recipes/drawn.yaml`, and a call of it."""
    config = CLIPVisionConfig(
        image_size=128, patch_size=16, hidden_size=160, intermediate_size=640, num_hidden_layers=6,
        num_attention_heads=5, projection_dim=128,
    )  # fmt: skip
    pictures = torch.rand(96, 3, 128, 128)
    return CLIPVisionModelWithProjection(config), lambda network: network(pictures).image_embeds


def unet() -> tuple[nn.Module, Callable[[nn.Module], Tensor]]:
    """The UNet of `recipes/drawn.yaml`, and a call of it."""
    network = UNet2DConditionModel(
        sample_size=16, in_channels=12, out_channels=12, cross_attention_dim=128, block_out_channels=(64, 224),
        down_block_types=("CrossAttnDownBlock2D",) * 2, up_block_types=("CrossAttnUpBlock2D",) * 2,
        layers_per_block=1, attention_head_dim=(2, 7), norm_num_groups=16,
    )  # fmt: skip
    z, t, context = torch.randn(32, 12, 16, 16), torch.arange(32), torch.randn(32, 77, 128)
    return network, lambda network: network(z, t, context).sample


@click.command()
@click.option("--repeats", default=5, show_default=True)
def main(repeats: int) -> None:
    """Measure both networks with both kinds of attention in turn."""
    torch.set_num_threads(1)
    precision = resolve_precision("auto", CPU, say=lambda _: None)
    told: dict[str, object] = {"precision": precision}
    for name, make in (("vision", vision), ("unet", unet)):
        network, call = make()
        laid_out(network, precision).train()
        seconds: dict[str, list[float]] = {"fused": [], "plain": []}
        for repeat in range(repeats + 1):  # the first of each chooses kernels
            for kind, taken in seconds.items():
                fused_attention(network) if kind == "fused" else plain_attention(network, CPU)
                began = time.process_time()
                with computing(precision, CPU):
                    result = call(network)
                torch.autograd.backward(result.float().square().mean())
                if repeat:
                    taken.append(time.process_time() - began)
        median = {kind: float(np.median(taken)) for kind, taken in seconds.items()}
        ratio = median["fused"] / median["plain"]
        told[name] = {kind: round(x, 3) for kind, x in median.items()} | {"ratio": round(ratio, 2)}
    print(json.dumps(told))


if __name__ == "__main__":
    main()

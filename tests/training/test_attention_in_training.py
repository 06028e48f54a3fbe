"""Plain attention: where it is used, that it computes the same, and that networks leave a training as they came."""

from __future__ import annotations

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from consistentid.training.attention import fused_attention, plain_attention

CPU = torch.device("cpu")


def unet(size: int | list[int]) -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=size, in_channels=4, out_channels=4, cross_attention_dim=16, block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlock2D",) * 2, up_block_types=("CrossAttnUpBlock2D",) * 2,
        layers_per_block=1, attention_head_dim=2, norm_num_groups=4,
    )  # fmt: skip


def kinds(network: UNet2DConditionModel) -> set[type]:
    return {type(processor) for processor in network.attn_processors.values()}


def test_it_computes_the_same_and_goes_again() -> None:
    network = unet(8)
    z, t, context = torch.randn(2, 4, 8, 8), torch.tensor([3, 500]), torch.randn(2, 5, 16)
    with torch.no_grad():
        before = network(z, t, context).sample
        plain_attention(network, CPU)
        assert kinds(network) == {AttnProcessor}
        assert torch.allclose(network(z, t, context).sample, before, atol=1e-5)
    fused_attention(network)
    assert kinds(network) == {AttnProcessor2_0}


def test_networks_of_transformers_inside_of_others() -> None:
    config = CLIPVisionConfig(image_size=32, patch_size=8, hidden_size=16, intermediate_size=32, num_attention_heads=2)
    pair = torch.nn.ModuleList([CLIPVisionModelWithProjection(config).eval(), unet(8)])
    picture = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        before = pair[0](picture).image_embeds
        plain_attention(pair, CPU)
        assert pair[0].config._attn_implementation == "eager"
        assert kinds(pair[1]) == {AttnProcessor}
        assert torch.allclose(pair[0](picture).image_embeds, before, atol=1e-5)
    fused_attention(pair)
    assert pair[0].config._attn_implementation == "sdpa"


@pytest.mark.parametrize("size", [33, [32, 48]])
def test_a_large_picture_s_attention_is_never_held_whole(size: int | list[int]) -> None:
    network = unet(size)
    plain_attention(network, CPU)
    assert kinds(network) == {AttnProcessor2_0}


def test_other_devices_keep_what_they_have() -> None:
    network = unet(8)
    plain_attention(network, torch.device("meta"))
    assert kinds(network) == {AttnProcessor2_0}

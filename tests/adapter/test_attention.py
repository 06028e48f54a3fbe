"""Recorded attention is that of the layers, and recording changes nothing."""

import torch
from diffusers import UNet2DConditionModel

from consistentid.adapter.attention import AttentionRecorder
from consistentid.training.losses import localisation_over_layers


def unet() -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=12,
        attention_head_dim=2,
        norm_num_groups=4,
    ).eval()


def test_records_text_attention_without_changing_the_output() -> None:
    net, x, text = unet(), torch.randn(2, 4, 8, 12), torch.randn(2, 7, 12)
    t = torch.tensor([10, 500])
    positions = torch.tensor([[1, 4], [6, 0]])
    recorder = AttentionRecorder(net)
    with torch.no_grad():
        plain = net(x, t, text).sample
        with recorder.recording(positions, (8, 12)) as maps:
            recorded = net(x, t, text).sample
        assert torch.equal(plain, recorded)
        assert {tuple(m.shape) for m in maps.values()} == {(2, 2, 8, 12), (2, 2, 4, 6)}
        assert all("attn2" in name for name in maps)
        # all columns together are a distribution over the text
        with recorder.recording(torch.arange(7).expand(2, -1), (8, 12)) as whole:
            net(x, t, text)
    for name, recorded_map in maps.items():
        torch.testing.assert_close(whole[name].sum(1), torch.ones_like(whole[name].sum(1)))
        torch.testing.assert_close(recorded_map[1, 0], whole[name][1, 6])


def test_equals_the_layers_own_attention() -> None:
    net, text = unet(), torch.randn(1, 5, 12)
    name = "mid_block.attentions.0.transformer_blocks.0.attn2"
    layer = net.get_submodule(name)
    seen = {}
    layer.register_forward_pre_hook(lambda _layer, args, kwargs: seen.update(hidden=args[0]), with_kwargs=True)
    with torch.no_grad(), AttentionRecorder(net, ["mid_block"]).recording(torch.tensor([[2]]), (8, 8)) as maps:
        net(torch.randn(1, 4, 8, 8), 3, text)
        query, key = (layer.head_to_batch_dim(p) for p in (layer.to_q(seen["hidden"]), layer.to_k(text)))
        expected = layer.get_attention_scores(query, key)[..., 2].mean(0).view(4, 4)
    assert list(maps) == [name]
    torch.testing.assert_close(maps[name][0, 0], expected)


def test_gradients_reach_the_text() -> None:
    net, text = unet(), torch.randn(1, 5, 12, requires_grad=True)
    with AttentionRecorder(net).recording(torch.tensor([[2]]), (8, 8)) as maps:
        net(torch.randn(1, 4, 8, 8), 3, text)
    sum(m[..., :2, :].sum() for m in maps.values()).backward()
    assert text.grad is not None
    assert text.grad.abs().sum() > 0


def test_gradients_of_the_localisation_loss_bear_half_precision() -> None:
    """They nearly cancel: with scores in half precision only noise was left, larger than all other gradients."""
    net, masks = unet(), torch.zeros(1, 1, 8, 8)
    masks[..., 2:5, 3:6] = 1
    layer = net.get_submodule("down_blocks.0.attentions.0.transformer_blocks.0.attn2")
    with torch.no_grad():
        layer.to_q.weight *= 64
    noise, text = torch.randn(1, 4, 8, 8), 0.3 * torch.randn(1, 5, 12) + 5  # whose scores have much in common
    gradients = []
    for half in (False, True):
        net.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            with AttentionRecorder(net, ["down_blocks.0"]).recording(torch.tensor([[2]]), (8, 8)) as maps:
                net(noise, 3, text)
            localisation_over_layers(list(maps.values()), masks, torch.ones(1, 1, dtype=torch.bool)).sum().backward()
        gradients.append(layer.to_k.weight.grad.flatten().clone())
    exact, rounded = gradients
    assert torch.cosine_similarity(exact, rounded, dim=0) > 0.9
    assert 0.7 < rounded.norm() / exact.norm() < 1.4

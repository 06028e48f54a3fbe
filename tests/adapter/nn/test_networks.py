"""Shapes, gradients and errors of the networks at other sizes than the recorded ones."""

import pytest
import torch

from consistentid.adapter.nn.facial_encoder import FacialEncoder
from consistentid.adapter.nn.image_projection import ImageProjection


def encoder() -> FacialEncoder:
    return FacialEncoder(12, 24, dim=16, depth=1, heads=2, dim_head=8)


def masks(tokens: list[list[int]], parts: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    token_mask = torch.zeros(len(tokens), 9, dtype=torch.bool)
    for row, columns in enumerate(tokens):
        token_mask[row, columns] = True
    return token_mask, torch.arange(3) < torch.tensor(parts).unsqueeze(1)


def test_image_projection_has_the_sizes_it_is_given() -> None:
    projection = ImageProjection(20, 12, 24, tokens=3, hidden=10, depth=2, heads=3, dim_head=8)
    assert projection(torch.randn(5, 20), torch.randn(5, 7, 12)).shape == (5, 3, 24)
    assert projection.proj[0].weight.shape == (10, 20)
    assert projection.perceiver_resampler.layers[0][0].to_q.weight.shape == (24, 24)


def test_image_projection_keeps_nothing_between_calls() -> None:
    projection = ImageProjection(20, 12, 64)
    first, second = (torch.randn(1, 20), torch.randn(1, 7, 12)), (torch.randn(1, 20), torch.randn(1, 7, 12))
    with torch.no_grad():
        alone = projection(*first)
        projection(*second)
        both = projection(*(torch.cat(pair) for pair in zip(first, second, strict=True)))
        torch.testing.assert_close(projection(*first), alone)
        torch.testing.assert_close(both[:1], alone)


def test_gradients_reach_every_weight_and_the_text() -> None:
    module = encoder()
    text = torch.randn(2, 9, 24, requires_grad=True)
    token_mask, part_mask = masks([[1, 4], [8]], [2, 1])
    module(text, torch.randn(2, 3, 7, 12), token_mask, part_mask).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in module.parameters())
    assert text.grad is not None
    assert (text.grad.abs().sum(-1) > 0).all()


def test_each_word_gets_its_own_rows_part() -> None:
    """Changing one part of one row changes that word alone."""
    module = encoder().requires_grad_(False)
    text, parts = torch.randn(2, 9, 24), torch.randn(2, 3, 7, 12)
    token_mask, part_mask = masks([[1, 4], [3, 5]], [2, 2])
    before = module(text, parts, token_mask, part_mask)
    parts[1, 0] += 1
    changed = (module(text, parts, token_mask, part_mask) - before).abs().sum(-1) > 0
    assert changed.nonzero().tolist() == [[1, 3]]


def test_text_of_another_precision_keeps_its_untouched_rows() -> None:
    module = encoder().requires_grad_(False)
    text = torch.randn(1, 9, 24, dtype=torch.float64)
    token_mask, part_mask = masks([[2]], [1])
    fused = module(text, torch.randn(1, 3, 7, 12), token_mask, part_mask)
    assert fused.dtype == torch.float64
    assert torch.equal(fused[~token_mask], text[~token_mask])


def test_words_and_parts_must_be_as_many() -> None:
    token_mask, part_mask = masks([[1, 4], [3]], [1, 2])
    with pytest.raises(ValueError, match=r"\[2, 1\] words and \[1, 2\] parts"):
        encoder()(torch.randn(2, 9, 24), torch.randn(2, 3, 7, 12), token_mask, part_mask)

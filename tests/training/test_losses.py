"""The losses on examples computed by hand."""

import pytest
import torch

from consistentid.training.losses import localisation_loss, localisation_over_layers, min_snr_weight, noise_loss


def test_localisation_of_a_hand_computed_example() -> None:
    attention = torch.tensor([[[[4.0, 2.0], [1.0, 1.0]]]])  # over its maximum: 1, 1/2, 1/4, 1/4
    mask = torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]]])
    used = torch.tensor([[True]])
    # outside (1/2 + 1/4 + 1/4) / 3 = 1/3, inside 1
    assert localisation_loss(attention, mask, used).item() == pytest.approx(1 / 3 - 1)
    assert localisation_loss(attention, 1 - mask, used).item() == pytest.approx(1 - 1 / 3)


def test_unused_parts_do_not_count() -> None:
    attention, masks = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4, 4).round()
    used = torch.tensor([[True, False, False], [False, False, False]])
    alone = localisation_loss(attention[:1, :1], masks[:1, :1], used[:1, :1])
    torch.testing.assert_close(localisation_loss(attention, masks, used), torch.tensor([alone.item(), 0.0]))


def test_samples_do_not_depend_on_one_another() -> None:
    """So that a batch in parts, or shared by processes, has the gradients of the whole."""
    attention, masks, used = torch.rand(4, 5, 4, 4), torch.rand(4, 5, 4, 4), torch.rand(4, 5) > 0.4
    whole = localisation_loss(attention, masks, used)
    halves = [localisation_loss(*(x[rows] for x in (attention, masks, used))) for rows in (slice(2), slice(2, 4))]
    torch.testing.assert_close(whole, torch.cat(halves))


def test_attention_on_the_part_lowers_the_loss_and_its_gradient_moves_there() -> None:
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., 1, 2] = 1
    attention = torch.full((1, 1, 4, 4), 0.5, requires_grad=True)
    localisation_over_layers([attention + 0.01 * mask], mask, torch.tensor([[True]])).backward()
    assert attention.grad is not None
    assert attention.grad[0, 0, 1, 2] < 0
    assert attention.grad[0, 0, 0, 0] > 0


def test_layers_of_any_resolution_and_parts_too_small_for_one() -> None:
    masks = torch.zeros(1, 2, 16, 16)
    masks[0, 0, :8, :8] = 1
    masks[0, 1, 3, 3] = 1  # 1/16 of a cell at 4 x 4, too little at 2 x 2
    maps = [torch.rand(1, 2, 4, 4), torch.rand(1, 2, 2, 2)]
    both = torch.tensor([[True, True]])
    expected = [
        localisation_loss(maps[0], torch.nn.functional.avg_pool2d(masks, 4), both),
        localisation_loss(maps[1], torch.nn.functional.avg_pool2d(masks, 8), torch.tensor([[True, False]])),
    ]
    torch.testing.assert_close(localisation_over_layers(maps, masks, both), torch.stack(expected).mean(0))


def test_background_is_masked_per_sample() -> None:
    prediction, target = torch.zeros(2, 1, 2, 2), torch.zeros(2, 1, 2, 2)
    target[0, 0, 0, 0], target[1, 0, 0, 0] = 2.0, 2.0
    person = torch.ones(2, 1, 2, 2)
    person[0, 0, 0] = 0  # the first sample's error lies on its background
    assert noise_loss(prediction, target, torch.ones(2, 1, 2, 2)).tolist() == [1.0, 1.0]
    assert noise_loss(prediction, target, person).tolist() == [0.0, 1.0]


def test_weights_are_shares_of_their_sum() -> None:
    prediction, target = torch.zeros(1, 3, 1, 2), torch.zeros(1, 3, 1, 2)
    prediction[..., 0] = 3.0
    weight = torch.tensor([[[[2.0, 1.0]]]])
    assert noise_loss(prediction, target, weight).item() == pytest.approx(9 * 2 / 3)


def test_min_snr_weights() -> None:
    snr = torch.tensor([0.25, 5.0, 100.0])
    torch.testing.assert_close(min_snr_weight(snr, 5.0, "epsilon"), torch.tensor([1.0, 1.0, 0.05]))
    torch.testing.assert_close(min_snr_weight(snr, 5.0, "v_prediction"), torch.tensor([0.2, 5 / 6, 5 / 101]))

"""Pictures that the model samples itself, for the losses that judge pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import micro
import pytest
import torch
from diffusers import DDPMScheduler
from torch import Tensor, nn

from consistentid.errors import InputError
from consistentid.training.examples import learns_base, learns_sampled
from consistentid.training.sampled import sampled

SCHEDULE = {"steps": 2, "batch": 2, "warmup": 1}


def rows(count: int) -> Tensor:
    return torch.randn(count, 4, 8, 8, generator=torch.Generator().manual_seed(count))


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_a_model_that_knows_the_picture_comes_to_it(prediction_type: str, steps: int) -> None:
    schedule = DDPMScheduler(prediction_type=prediction_type)
    clean, noise = rows(3), rows(4)[:3]
    begin, end = torch.full((3,), 699), torch.tensor([0, 350, 699])
    asked: list[list[int]] = []

    def denoise(noisy: Tensor, t: Tensor) -> Tensor:
        asked.append(t.tolist())
        torch.testing.assert_close(noisy, schedule.add_noise(clean, noise, t), rtol=1e-3, atol=1e-3)
        return noise if prediction_type == "epsilon" else schedule.get_velocity(clean, noise, t)

    found = sampled(denoise, schedule, schedule.add_noise(clean, noise, begin), begin, end, steps)
    torch.testing.assert_close(found, schedule.add_noise(clean, noise, end), rtol=1e-3, atol=1e-3)
    assert asked[0] == [699] * 3, "where the noise is most"
    assert len(asked) == steps
    assert all(t[2] == 699 for t in asked)


def test_casts_made_while_sampling_keep_no_gradient_from_the_pass_after_it() -> None:
    layer = nn.Conv2d(4, 4, 1)
    schedule = DDPMScheduler()
    begin, end = torch.full((2,), 600), torch.full((2,), 100)
    with torch.autocast("cpu", torch.bfloat16):
        noisy = sampled(lambda x, _: layer(x), schedule, rows(2), begin, end, 2)
        assert not noisy.requires_grad
        layer(noisy).float().square().mean().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.abs().max() > 0


def run(folder: Path, **options: Any) -> tuple[dict[str, Tensor], list[dict[str, float]]]:
    """The state after a run, and its log."""
    options = {"schedule": SCHEDULE, "log": {"every": 1}, "identity_weight": 1.0, **options}
    return micro.learnt(folder / "run", folder.parent / "cache", **options), micro.logged(folder / "run")


def differ(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return any(not torch.equal(a[name], b[name]) for name in a)


@pytest.mark.slow
def test_how_pictures_are_sampled_changes_what_is_learnt(tmp_path: Path) -> None:
    given, log = run(tmp_path / "given")
    own, own_log = run(tmp_path / "own", sampled_share=1.0)
    more, _ = run(tmp_path / "more", sampled_share=1.0, sampled_steps=1)
    less, _ = run(tmp_path / "less", sampled_share=1.0, sampled_from=0.2)
    assert all({"noise", "identity"} <= line.keys() and "sampled_identity" not in line for line in log)
    assert all("sampled_identity" in line and not {"noise", "identity"} & line.keys() for line in own_log)
    assert differ(given, own)
    assert differ(own, more)
    assert differ(own, less)


def test_each_step_learns_one_thing(tmp_path: Path) -> None:
    trainer = micro.trainer(
        tmp_path / "run", tmp_path / "cache", base_share=0.3, sampled_share=0.5, identity_weight=1.0, trained=["unet"]
    )
    kinds = [(learns_base(trainer.config, step), learns_sampled(trainer.config, step)) for step in range(1000)]
    assert (True, True) not in kinds
    assert 250 < sum(base for base, _ in kinds) < 350
    assert 450 < sum(own for _, own in kinds) < 550


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampled_share": 0.5}, "sampled_share needs identity_weight or scene_weight"),
        (
            {"sampled_share": 0.6, "base_share": 0.6, "identity_weight": 1.0, "trained": ["unet"]},
            "shares of the same steps",
        ),
    ],
)
def test_shares_that_cannot_be_are_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        micro.trainer(tmp_path / "run", tmp_path / "cache", **options)

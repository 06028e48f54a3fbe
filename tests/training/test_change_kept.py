"""Averages of the weights before and after a training: what is published, and what it goes on from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import micro
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from consistentid.errors import InputError

UNET = "base/unet/diffusion_pytorch_model.safetensors"
OPTIONS: dict[str, Any] = {
    "init": "preset", "spec": {}, "trained": ["ip_layers", "lora", "unet"], "schedule": {"steps": 3, "ema": 0.5},
}  # fmt: skip


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def published(run: Path) -> dict[str, Tensor]:
    """Weights in a run's folder by their names on disk."""
    adapter, unet = load_file(run / "model.safetensors"), load_file(run / UNET)
    return {f"adapter.{name}": x for name, x in adapter.items()} | {f"unet.{name}": x for name, x in unet.items()}


@pytest.mark.slow
def test_a_share_of_the_change_is_published_and_all_of_it_learnt_on(tmp_path: Path, cache: Path) -> None:
    asked = {"adapter.": 0.5, "unet.": 0.25, "attn2": 0.0}
    whole = micro.learnt(tmp_path / "whole", cache, **OPTIONS)
    trainer = micro.trainer(tmp_path / "part", cache, **OPTIONS, change_kept=asked)
    module = trainer.module
    before = {f"adapter.{name}": x.clone() for name, x in module.cid.state_dict().items()}
    learns = {name: x.detach().clone() for name, x in module.named_parameters() if x.requires_grad}
    before |= {module.names[name]: x for name, x in learns.items()}
    assert trainer.train()
    after, part = published(tmp_path / "whole"), published(tmp_path / "part")
    changed = {name for name, x in after.items() if not torch.equal(x, before[name].half())}
    assert {name.partition(".")[0] for name in changed} == {"adapter", "unet"}
    for name in after:
        share = min(share for words, share in asked.items() if words in name)
        expected = torch.lerp(before[name].float(), after[name].float(), share)
        torch.testing.assert_close(
            part[name].float(), expected, atol=2e-3, rtol=2e-3, msg=lambda told, name=name: f"{name}: {told}"
        )
    again = load_file(tmp_path / "part/checkpoint-3/state.safetensors")
    assert all(torch.equal(again[name], x) for name, x in whole.items())  # nothing of the training changed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"init": None, "change_kept": {"adapter.": 0.5}}, "change_kept needs init"),
        ({"change_kept": {"unet.": 0.5}}, "no weight that learns has 'unet.' in its name"),
        ({"change_kept": {"adapter.": 1.5}}, "change_kept.adapter.=1.5 is not allowed; give a number from 0 to 1"),
    ],
)
def test_what_cannot_be_kept_is_told(tmp_path: Path, cache: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        micro.trainer(tmp_path / "run", cache, **({"init": "preset", "spec": {}} | options))
    assert message in str(caught.value)

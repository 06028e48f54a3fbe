"""The scene loss: what a picture should show counts, what nobody was told does not."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import micro
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from consistentid.drawn.portraits import sample_people, sample_scenes
from consistentid.drawn.scene_reader import FACTORS, OWN, UNSEEN, VALUES, shown, split_factors
from consistentid.errors import InputError
from consistentid.faces.differentiable import DifferentiableOnnx
from consistentid.training.drawn.onnx_network import Network, export
from consistentid.training.scenes import Asked, SceneLoss, factor_loss, told
from consistentid.training.trainer import open_source

pytestmark = [
    pytest.mark.filterwarnings("ignore:You are using the legacy TorchScript:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The feature will be removed:DeprecationWarning"),
]
WIDTHS = [len(values) for values in FACTORS.values()]


class Flat(nn.Module):
    """Logits that are the latents themselves."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :VALUES]


def exported(folder: Path, side: int) -> Path:
    torch.manual_seed(0)
    network = Network(
        side, VALUES, "convnext", channels=4, patch_size=1, num_stages=2, hidden_sizes=[8, 8], depths=[1, 1],
        layer_scale_init_value=1.0,
    )  # fmt: skip
    export(network.eval(), folder / "latent_reader.onnx", "logits")
    return folder / "latent_reader.onnx"


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reader of the tiny preset's latents, 4 channels of 8 x 8."""
    return exported(tmp_path_factory.mktemp("reader"), 8)


def test_it_is_the_cross_entropy_of_what_is_asked() -> None:
    latents = torch.zeros(4, VALUES, 1, 1, requires_grad=True)
    values = torch.zeros(4, len(FACTORS), dtype=torch.long)
    weight = torch.zeros(4, len(FACTORS))
    weight[0, 0] = 1.0
    weight[1, :2] = torch.tensor([3.0, 1.0])
    weight[2, 1] = 2.0
    values[2, 1] = UNSEEN
    loss = SceneLoss(Flat())(latents, Asked(values, weight))
    hats, colors = math.log(WIDTHS[0]), math.log(WIDTHS[1])
    torch.testing.assert_close(loss, torch.tensor([hats, (3 * hats + colors) / 4, 0.0, 0.0]))
    loss.sum().backward()
    touched = latents.grad.flatten(1) != 0
    assert touched[0].nonzero()[:, 0].tolist() == list(range(WIDTHS[0]))
    assert touched[1].nonzero()[:, 0].tolist() == list(range(WIDTHS[0] + WIDTHS[1]))
    assert not touched[2:].any()


def test_latents_of_another_shape_are_not_read_where_nothing_is_asked() -> None:
    class Never(nn.Module):
        def forward(self, _x: Tensor) -> Tensor:
            raise AssertionError("it was asked")

    nothing = Asked.all_of(torch.full((2, len(FACTORS)), UNSEEN))
    loss = SceneLoss(Never())(torch.zeros(2, 4, 4, 6), nothing)
    assert loss.tolist() == [0.0, 0.0]


def test_what_is_not_seen_is_ignored() -> None:
    logits = torch.zeros(2, VALUES, requires_grad=True)
    values = torch.zeros(2, len(FACTORS), dtype=torch.long)
    values[0, 1] = UNSEEN
    loss = factor_loss(logits, Asked.all_of(values))
    each = [math.log(width) for width in WIDTHS]
    torch.testing.assert_close(loss, torch.tensor([(sum(each) - each[1]) / (len(each) - 1), sum(each) / len(each)]))
    loss[0].backward()
    parts = split_factors(logits.grad[:1])
    assert [bool(part.abs().max() > 0) for part in parts] == [number != 1 for number in range(len(FACTORS))]


def test_words_tell_of_scenes_and_references_of_people() -> None:
    assert [factor for factor, x in zip(FACTORS, told(1, own=False)[0], strict=True) if not x] == list(OWN)
    assert told(3, own=True).tolist() == [[1.0] * len(FACTORS)] * 3


def test_what_a_batch_is_asked(tmp_path: Path, reader: Path) -> None:
    options = {"scene_weight": 1.0, "latent_reader": str(reader), "condition_dropout": 0.3, "base_share": 0.4}
    options |= {"trained": ["image_projection", "unet"], "exchange_share": 0.5, "exchanges": {"scenes": 3}}
    options |= {"exchange_weight": 7.0, "groups": [{"people": 3, "scenes": 1, "together": 2, "width": 48}]}
    trainer = micro.trainer(tmp_path / "run", tmp_path / "cache", **options)
    source, examples = trainer.source, trainer.examples
    seen: set[str] = set()
    for step in range(60):
        example = examples[step, 0, step % 9]
        batch = examples.batch([example])
        assert batch.asked is not None
        shown_to, weight = batch.asked.shown[0].tolist(), batch.asked.weight[0].tolist()
        assert shown_to == source.shown(example.row).tolist()
        asked = {factor for factor, x in zip(FACTORS, weight, strict=True) if x}
        if example.dropped:
            assert not asked
        else:
            assert asked == set(FACTORS) - (set(OWN) if batch.base else set())
        exchange = example.exchange
        heavy = [factor for factor, x in zip(FACTORS, weight, strict=True) if x == 8]
        assert heavy == ([exchange.part] if exchange and exchange.part in FACTORS and not example.dropped else [])
        group = example.row in source.groups()[0]
        if group:
            assert set(shown_to) == {UNSEEN}
        seen |= {"group"} if group else {"dropped"} if example.dropped else {"exchange"} if exchange else {"plain"}
    assert seen == {"group", "dropped", "exchange", "plain"}


def test_single_factors_weigh_what_the_recipe_says(tmp_path: Path, reader: Path) -> None:
    options = {"scene_weight": 1.0, "latent_reader": str(reader), "condition_dropout": 0.0}
    trainer = micro.trainer(tmp_path / "run", tmp_path / "cache", scene_factors={"clothes": 5, "style": 0}, **options)
    batch = trainer.examples.batch([trainer.examples[0, 0, 0], trainer.examples[0, 1, 1]])
    assert batch.asked is not None
    wanted = [{"clothes": 5.0, "style": 0.0}.get(factor, 1.0) for factor in FACTORS]
    assert batch.asked.weight.tolist() == [wanted, wanted]
    with pytest.raises(InputError, match=r"scene_factors has unknown trousers; known are .*clothes"):
        micro.trainer(tmp_path / "run", tmp_path / "cache", scene_factors={"trousers": 1.0}, **options)


def test_the_source_tells_what_drawings_show(tmp_path: Path) -> None:
    source = micro.trainer(tmp_path / "run", tmp_path / "cache").source
    scenes = sample_scenes([(1, 2)], split="train")
    assert np.array_equal(source.shown(5), shown(sample_people([1], split="train"), scenes)[0])


@pytest.mark.parametrize("base_share", [0.0, pytest.param(1.0, marks=pytest.mark.slow)])
def test_it_is_learnt_from_by_adapter_and_base(tmp_path: Path, reader: Path, base_share: float) -> None:
    options = {"latent_reader": str(reader), "base_share": base_share, "trained": ["lora", "unet"]}
    without = micro.learnt(tmp_path / "without", tmp_path / "cache", **options)
    with_it = micro.learnt(tmp_path / "with", tmp_path / "cache", scene_weight=5.0, **options)
    assert any(not torch.equal(with_it[name], without[name]) for name in without)
    assert all(torch.isfinite(x).all() for x in with_it.values())
    assert all("scene" in row for row in micro.logged(tmp_path / "with"))
    assert all("scene" not in row for row in micro.logged(tmp_path / "without"))


def test_gradients_lead_to_what_is_asked(reader: Path) -> None:
    loss = SceneLoss(DifferentiableOnnx(reader))
    latents = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    values = torch.from_numpy(shown(sample_people([0, 1, 2]), sample_scenes([(0, 0), (1, 1), (2, 2)])))
    optimiser = torch.optim.Adam([latents], lr=0.1)
    losses = []
    for _ in range(100):
        optimiser.zero_grad()
        losses.append(loss(latents, Asked.all_of(values)).mean())
        losses[-1].backward()
        optimiser.step()
    assert losses[-1] < 0.9 * losses[0]


def test_a_reader_of_other_latents_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"takes \(4, 4, 4\), and this base has latents of \(4, 8, 8\)"):
        micro.trainer(tmp_path / "run", tmp_path / "cache", scene_weight=1.0, latent_reader=str(exported(tmp_path, 4)))


def test_a_loss_without_its_network_is_refused(tmp_path: Path, reader: Path) -> None:
    with pytest.raises(InputError, match="scene_weight needs latent_reader"):
        micro.trainer(tmp_path / "run", tmp_path / "cache", scene_weight=1.0)
    config = micro.trainer(tmp_path / "run", tmp_path / "cache", latent_reader=str(reader)).config
    with pytest.raises(InputError, match="a data set does not tell what its pictures show"):
        open_source(replace(config, scene_weight=1.0), tmp_path, tmp_path)

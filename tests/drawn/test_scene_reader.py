"""What drawn scenes show, and the network that reads it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from consistentid.drawn.portraits import draw, sample_people, sample_scenes
from consistentid.drawn.portraits.scenes import BACKGROUNDS, HATS
from consistentid.drawn.scene_reader import FACTORS, UNSEEN, SceneReader, shown, split_factors
from consistentid.errors import CheckpointError
from consistentid.presets.read import load_preset
from consistentid.training.drawn.scene_reader import factor_loss

KEYS = [(number, 2) for number in range(200)]


@pytest.fixture(scope="module")
def reader() -> SceneReader:
    network = load_preset("drawn").scene_reader
    assert network is not None
    return SceneReader(network.fetch())


def test_what_is_not_there_has_no_color() -> None:
    scenes = sample_scenes(KEYS)
    table = dict(zip(FACTORS, shown(scenes).T, strict=True))
    for factor, thing, names, visible in (
        ("hat_color", "hat", HATS, {"hat", "cap", "beanie", "headband"}),
        ("background_color", "background", BACKGROUNDS, {"plain", "wallpaper"}),
    ):
        for value, what in zip(table[factor], getattr(scenes, thing), strict=True):
            assert (value != UNSEEN) == (names[what] in visible)
    assert (table["glasses"] == scenes.glasses).all()


def test_the_shipped_reader_reads_held_out_drawings(reader: SceneReader) -> None:
    people, scenes = sample_people([who for who, _ in KEYS], split="test"), sample_scenes(KEYS, split="test")
    pictures = [Image.fromarray(x) for x in draw(people, scenes, 64).pixels()]
    found, truth = reader.read(pictures), shown(scenes)
    right = {factor: (found[:, i] == truth[:, i])[truth[:, i] != UNSEEN].mean() for i, factor in enumerate(FACTORS)}
    assert all(right[factor] > 0.75 for factor in ("hat", "hat_color", "glasses", "clothes", "clothes_color")), right
    assert right["background"] > 0.95
    larger = [x.resize((96, 96), Image.Resampling.LANCZOS) for x in pictures[:20]]
    assert (reader.read(larger) == found[:20]).mean() > 0.9
    assert reader.read([]).shape == (0, len(FACTORS))


def test_another_network_is_refused(tmp_path: Path) -> None:
    judge = load_preset("drawn").judge
    assert judge is not None
    with pytest.raises(CheckpointError, match="does not read scenes"):
        SceneReader(judge.fetch())
    with pytest.raises(CheckpointError, match="no weights at"):
        SceneReader(tmp_path / "nothing.onnx")


def test_the_loss_ignores_what_is_not_seen() -> None:
    widths = [len(values) for values in FACTORS.values()]
    logits = torch.zeros(2, sum(widths), requires_grad=True)
    truth = torch.zeros(2, len(widths), dtype=torch.long)
    assert factor_loss(logits, truth).item() == pytest.approx(np.mean(np.log(widths)))
    truth[:, 1] = UNSEEN
    loss = factor_loss(logits, truth)
    assert loss.item() == pytest.approx(np.log([w for i, w in enumerate(widths) if i != 1]).sum() / len(widths))
    loss.backward()
    assert logits.grad is not None
    parts = split_factors(logits.grad)
    assert parts[1].abs().max() == 0
    assert all(part.abs().max() > 0 for i, part in enumerate(parts) if i != 1)

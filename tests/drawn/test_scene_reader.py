"""What drawn scenes show, and the network that reads it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from consistentid.drawn.portraits import People, Scenes, draw, sample_people, sample_scenes
from consistentid.drawn.portraits.captions import part_kinds
from consistentid.drawn.portraits.scenes import BACKGROUNDS, EXPRESSIONS, GLASSES, HATS, STYLES, clothes_seen
from consistentid.drawn.scene_reader import FACTORS, UNSEEN, SceneReader, shown
from consistentid.errors import CheckpointError
from consistentid.presets.read import load_preset

KEYS = [(number, 2) for number in range(200)]


@pytest.fixture(scope="module")
def reader() -> SceneReader:
    network = load_preset("drawn").scene_reader
    assert network is not None
    return SceneReader(network.fetch())


def test_what_is_not_there_has_no_value() -> None:
    people, scenes = sample_people([who for who, _ in KEYS]), sample_scenes(KEYS)
    table = dict(zip(FACTORS, shown(people, scenes).T, strict=True))
    colored = np.array(STYLES)[scenes.style] != "pencil"
    for factor, thing, names, visible in (
        ("hat_color", "hat", HATS, {"hat", "cap", "beanie", "headband"}),
        ("background_color", "background", BACKGROUNDS, {"plain", "wallpaper"}),
    ):
        for value, what, color in zip(table[factor], getattr(scenes, thing), colored, strict=True):
            assert (value != UNSEEN) == (color and names[what] in visible)
    assert (table["glasses"] == scenes.glasses).all()
    assert ((table["clothes"] == UNSEEN) == ~clothes_seen(scenes)).all()


def test_traits_of_people_are_read_where_they_are_large_enough() -> None:
    people = People.concatenate([sample_people(1)] * 4)
    scenes = Scenes.concatenate(
        [sample_scenes([(0, 0)], framing=x) for x in ("portrait", "portrait", "full-length", "portrait")]
    )
    scenes = replace(
        scenes,
        style=np.array([STYLES.index(x) for x in ("flat", "pencil", "flat", "flat")]),
        glasses=np.array([GLASSES.index(x) for x in ("none", "none", "none", "sunglasses")]),
        expression=np.array([EXPRESSIONS.index(x) for x in ("neutral", "neutral", "neutral", "laughing")]),
    )
    table = dict(zip(FACTORS, shown(people, scenes).T, strict=True))
    nose, mouth = (FACTORS[part].index(part_kinds(people, 0)[part]) for part in ("nose", "mouth"))
    assert table["eyes"].tolist() == [people.eye_color[0], UNSEEN, UNSEEN, UNSEEN]
    assert table["nose"].tolist() == [nose, nose, UNSEEN, nose]
    assert table["mouth"].tolist() == [mouth, mouth, UNSEEN, UNSEEN]


@pytest.mark.slow
def test_the_shipped_reader_reads_held_out_drawings(reader: SceneReader) -> None:
    people, scenes = sample_people([who for who, _ in KEYS], split="test"), sample_scenes(KEYS, split="test")
    pictures = [Image.fromarray(x) for x in draw(people, scenes, 64).pixels()]
    found, truth = reader.read(pictures), shown(people, scenes)
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

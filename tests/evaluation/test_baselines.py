"""The recipes of the baselines: each differs from the whole method by a few options, all of which exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from consistentid.evaluation.variants import find
from consistentid.presets.settings import Settings
from consistentid.training.config import TrainConfig

FOLDER = Path(__file__).parents[2] / "recipes" / "baselines"
RECIPES = sorted(path.stem for path in FOLDER.glob("*.yaml"))


@pytest.mark.parametrize("name", RECIPES)
def test_every_baseline_has_the_budget_and_the_base_of_the_whole_method(name: str) -> None:
    full, baseline = (TrainConfig.from_yaml(FOLDER / f"{x}.yaml") for x in ("full", name))
    for option in ("schedule", "preset", "people", "pictures", "views", "size"):
        assert getattr(baseline, option) == getattr(full, option)
    assert "unet" not in baseline.trained
    assert name == "full" or baseline != full


def test_the_script_runs_every_recipe_as_it_was_trained() -> None:
    text = (FOLDER / "run.sh").read_text()
    table = {name: ways.split() for name, ways in re.findall(r'\[(\w+)\]="?([\w@=. ]+\w)', text)}
    assert sorted(table) == RECIPES
    listed = re.search(r"for name in ([^;]*); do", text)
    assert listed
    assert sorted(listed[1].replace("\\", " ").split()) == RECIPES
    for variant in (way for ways in table.values() for way in ways):
        assert find(variant, Settings()).name == variant

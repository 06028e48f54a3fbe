"""Lists of prompts, what they ask, and the scenes that show it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from consistentid.drawn.portraits import sample_scenes
from consistentid.drawn.scene_reader import FACTORS
from consistentid.errors import InputError
from consistentid.evaluation.people import as_asked, read_people
from consistentid.evaluation.protocol import alternatives, load_protocol, protocol_names
from consistentid.evaluation.variants import ABLATIONS, FULL, ablation, find
from consistentid.presets.read import load_preset
from consistentid.presets.settings import Settings


@pytest.mark.parametrize("name", ["drawn", "paper"])
def test_the_groups_are_those_of_the_paper(name: str) -> None:
    protocol = load_protocol(name)
    assert Counter(prompt.group for prompt in protocol.prompts) == {
        "clothing": 10, "background": 10, "action": 15, "style": 10,
    }  # fmt: skip
    assert len({prompt.text for prompt in protocol.prompts}) == 45


def test_the_paper_samples_with_ddim_in_50_steps() -> None:
    preset = load_protocol("paper").of(load_preset("sd15"))
    assert (preset.scheduler, preset.settings.steps, preset.settings.guidance_scale) == ("DDIMScheduler", 50, 5.0)


def test_what_is_asked_is_drawn_and_what_is_not_mentioned_is_absent() -> None:
    prompt = load_protocol("drawn").prompts[5]
    assert prompt.asks == {"expression": "surprised", "clothes": "hoodie", "clothes_color": "green",
                           "background": "sunset"}  # fmt: skip
    for number in range(20):
        scene = as_asked(sample_scenes([(number, 1)]), prompt.asks)
        shown = {
            factor: values[int(getattr(scene, factor)[0])]
            for factor, values in FACTORS.items()
            if hasattr(scene, factor)
        }
        assert prompt.asks.items() <= shown.items()
        assert (shown["hat"], shown["glasses"]) == ("none", "none")
        assert shown["style"] in ("flat", "shaded")


@pytest.mark.parametrize("prompt", load_protocol("drawn").prompts, ids=lambda prompt: prompt.text)
def test_every_value_of_a_factor_has_its_own_words(prompt) -> None:  # type: ignore[no-untyped-def]
    for factor, value in prompt.asks.items():
        texts = alternatives(factor, prompt.asks)
        assert len(set(texts)) == len(FACTORS[factor])
        right = texts[FACTORS[factor].index(value)]
        if factor.endswith("_color"):
            assert value in right
            assert prompt.asks[factor.removesuffix("_color")] in right or "background" in right or "wallpaper" in right


def test_unknown_protocols_and_values_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"known are {', '.join(protocol_names())}"):
        load_protocol("nothing")
    file = tmp_path / "mine.yaml"
    file.write_text("prompts: [{text: a person, group: g, asks: {hat: helmet}}]")
    with pytest.raises(InputError, match=r"helmet.*crown"):
        load_protocol(file)
    file.write_text("prompts: [{words: a person}]")
    with pytest.raises(InputError, match=r"prompts\.0 has unknown options words; known are text, group, asks"):
        load_protocol(file)
    with pytest.raises(InputError, match="1 to 45"):
        load_protocol("paper").first(46)


def test_ablations_share_the_full_model() -> None:
    settings = Settings(scale=1.0, merge_at=0.6)
    for name in ABLATIONS:
        assert FULL in ablation(name, settings).values()
    assert ablation("merge", settings)["0.6"] is FULL
    assert ablation("merge", Settings(merge_at=0.5))["0.6"].settings == {"merge_at": 0.6}
    assert find("parts_3", settings).parts == 3
    with pytest.raises(InputError, match="text_only"):
        find("nothing", settings)


def test_a_variant_with_a_setting_changed() -> None:
    settings = Settings()
    half = find("overall_only@scale=0.5", settings)
    assert (half.name, half.face_text, half.settings) == ("overall_only@scale=0.5", "none", {"scale": 0.5})
    assert find("parts_only@merge_at=0.4", settings).settings == {"scale": 0.0, "merge_at": 0.4}
    assert ablation("merge", settings)["0.4"] == find("full@merge_at=0.4", settings)
    for name, message in (
        ("full@strange=1", r"unknown setting 'strange'; known are steps"),
        ("full@scale=high", r"scale='high' is not allowed"),
        ("full@scale=", r"scale=None is not allowed"),
        ("half@scale=1", "unknown variant 'half'"),
    ):
        with pytest.raises(InputError, match=message):
            find(name, settings)


def test_people_of_a_folder(tmp_path: Path) -> None:
    for name in ("ada/1.png", "ada/2.jpg", "ada/notes.txt", "ben/x.png", "empty/y.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    ada, ben = read_people(tmp_path, 2)
    assert (ada.name, ada.reference, ada.others) == ("ada", tmp_path / "ada/1.png", (tmp_path / "ada/2.jpg",))
    assert ben.others == ()
    with pytest.raises(InputError, match="holds 2 people, not 3"):
        read_people(tmp_path, 3)
    with pytest.raises(InputError, match="holds no people"):
        read_people(tmp_path / "empty", 1)

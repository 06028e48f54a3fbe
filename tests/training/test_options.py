"""Every option of a recipe has an effect, and those that must not change what is learnt do not."""

from __future__ import annotations

import json
import math
import pickle
import shutil
import sys
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_type_hints

import micro
import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor

import tiny
from consistentid.errors import InputError
from consistentid.files.config import build
from consistentid.training.config import Checkpoints, Log, TrainConfig, Validation
from consistentid.training.recipe import load_recipe
from consistentid.training.schedule import Schedule
from consistentid.training.trainer import open_source

SHIPPED = Path(__file__).parents[2] / "src/consistentid/weights/drawn"

BASE = {"schedule": {"steps": 3, "batch": 4, "warmup": 1}, "min_snr": 0.0}

LEARNT: dict[str, list[dict[str, Any]]] = {
    "spec": [{"spec": micro.SPEC | {"facial_depth": 2}}],
    "trained": [{"trained": ["image_projection"]}, {"trained": ["unet", "lora"]}],
    "people": [{"people": 2}],
    "views": [{"views": 1}],
    "same_picture": [{"same_picture": 1.0}],
    "anonymous_caption": [{"anonymous_caption": 1.0}],
    "fixed_sentence": [{"fixed_sentence": 1.0, "text_only": 0.0}],
    "text_only": [{"text_only": 1.0}],
    "condition_dropout": [{"condition_dropout": 0.9}],
    "id_dropout": [{"id_dropout": 0.9}],
    "base_share": [{"base_share": 0.9, "trained": ["lora", "unet"]}],
    "exchange_share": [{"exchange_share": 1.0, "exchanges": {"scenes": 3}}],
    "exchanges": [{"exchange_share": 0.5, "exchanges": {"scenes": 1}}],
    "exchange_weight": [{"exchange_share": 1.0, "exchanges": {"scenes": 3}, "exchange_weight": 9.0}],
    "id_scale": [{"id_scale": 0.5}],
    "background_masking": [{"background_masking": 0.0}, {"background_masking": 1.0}],
    "face_weight": [{"face_weight": 5.0}],
    "localisation_weight": [{"localisation_weight": 10.0}, {"localisation_weight": 0.0}],
    "localisation_blocks": [{"localisation_blocks": ["mid_block"], "localisation_weight": 10.0}],
    "identity_weight": [{"identity_weight": 1.0}, {"identity_weight": 1.0, "identity_start": 0.5}],
    "timestep_power": [{"timestep_power": 3.0}],
    "min_snr": [{"min_snr": 1.0}],
    "precision": [{"precision": "bfloat16"}],
    "schedule": [
        {"schedule": BASE["schedule"] | change}
        for change in (
            {"steps": 4}, {"batch": 2}, {"lr": 1e-3}, {"warmup": 3}, {"weight_decay": 5.0}, {"clip": 1e-5},
            {"ema": 0.5}, {"seed": 6}, {"final_lr": 0.9},
        )
    ],
}  # fmt: skip
"""Option -> recipes with another value of it, each of which must learn something else."""

TESTED_ELSEWHERE = {
    "size", "pictures", "preset", "networks", "init", "optimiser", "accumulate", "gradient_checkpointing", "cache",
    "workers", "identity_recognisers", "checkpoints", "log", "validation", "distilled_recogniser", "groups",
    "identity_start", "scene_weight", "scene_factors", "latent_reader", "sampled_share", "sampled_steps",
    "sampled_from", "company_share", "change_kept",
}  # fmt: skip
"""Below in this file, in `test_swap_recogniser.py`, `test_scene_loss.py`, `test_sampled.py`, `test_company.py` and
`test_change_kept.py`."""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> dict[str, Tensor]:
    return learnt(tmp_path_factory.mktemp("plain") / "run", cache)


def learnt(run: Path, cache: Path, /, **options: Any) -> dict[str, Tensor]:
    """The state after a run."""
    return micro.learnt(run, cache, **BASE | options)


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_every_option_is_tested() -> None:
    assert {field.name for field in fields(TrainConfig)} == set(LEARNT) | TESTED_ELSEWHERE


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [pytest.param(x, id=f"{name}{i}") for name, all_ in LEARNT.items() for i, x in enumerate(all_)]
)
def test_it_changes_what_is_learnt(tmp_path: Path, cache: Path, plain: dict[str, Tensor], options: dict) -> None:
    other = learnt(tmp_path / "run", cache, **options)
    assert not same(other, plain)
    assert all(torch.isfinite(x).all() for x in other.values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"exchange_share": 0.5}, "exchange_share needs exchanges"),
        ({"exchanges": {"scenes": 1, "seed": 3}}, "exchanges are pictures of the drawn people"),
        ({"exchanges": {"scenes": 1, "people": 4}}, "exchanges: 4 people, and 3 are learnt from"),
        ({"exchanges": {"scenes": 1}, "people": 1}, "exchanged parts are those of somebody else"),
        ({"exchanges": {"scenes": 1, "heads": 2}}, "heads"),
    ],
)
def test_exchanges_of_nobody_are_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TrainConfig.from_yaml(micro.recipe(tmp_path, **options))


def test_a_data_set_has_no_exchanges(tmp_path: Path) -> None:
    config = TrainConfig.from_yaml(micro.recipe(tmp_path, exchange_share=0.5, exchanges={"scenes": 1}))
    with pytest.raises(InputError, match="a data set has no pictures with exchanged parts"):
        open_source(config, tmp_path, tmp_path)


def test_a_data_set_has_one_caption(tmp_path: Path) -> None:
    config = TrainConfig.from_yaml(micro.recipe(tmp_path, anonymous_caption=0.5))
    with pytest.raises(InputError, match="a data set has one caption a picture"):
        open_source(config, tmp_path, tmp_path)


@pytest.mark.slow
def test_the_base_learns_from_groups(tmp_path: Path, cache: Path) -> None:
    alone = {"base_share": 0.9, "trained": ["lora", "unet"]}
    groups = [{"people": 4, "scenes": 1, "together": 2, "width": 48}]
    portraits, both = (learnt(tmp_path / str(len(x)), cache, **alone, groups=x) for x in ([], groups))
    assert not same(portraits, both)
    assert all(torch.isfinite(x).all() for x in both.values())


@pytest.mark.slow
def test_workers_and_the_cache_change_nothing(tmp_path: Path, cache: Path, plain: dict[str, Tensor]) -> None:
    assert same(learnt(tmp_path / "a", cache, workers=2), plain)
    assert same(learnt(tmp_path / "b", tmp_path / "new", cache=["latents", "references"]), plain)
    assert {path.name for path in (tmp_path / "new").iterdir()} >= {"latents", "references"}
    anew = learnt(tmp_path / "c", tmp_path / "none", cache=[])
    assert not {"latents", "references", "text"} & {path.name for path in (tmp_path / "none").iterdir()}
    for name in plain:
        torch.testing.assert_close(anew[name], plain[name], rtol=0.02, atol=0.02)


@pytest.mark.slow
def test_parts_of_a_step_and_checkpointed_gradients_give_the_same_gradients(tmp_path: Path, cache: Path) -> None:
    once = {"schedule": BASE["schedule"] | {"steps": 1}, "localisation_weight": 1.0}
    whole = learnt(tmp_path / "whole", cache, **once)
    for number, options in enumerate(({"accumulate": 2}, {"gradient_checkpointing": True})):
        other = learnt(tmp_path / str(number), cache, **once, **options)
        for name in (x for x in whole if x.endswith("exp_avg")):
            torch.testing.assert_close(other[name], whole[name], rtol=1e-3, atol=1e-6)
    trainer = micro.trainer(tmp_path / "checkpointing", cache, gradient_checkpointing=True)
    assert trainer.frozen.pipe.unet.is_gradient_checkpointing


def test_workers_are_spawned_and_sent_little(tmp_path: Path, cache: Path) -> None:
    """No network and no picture: what a worker is sent is what it needs to read and prepare them."""
    trainer = micro.trainer(tmp_path / "run", cache, workers=1, cache=[], identity_weight=1.0)
    example = trainer.examples[0, 0, 0]  # opens sessions, which no process can be sent
    sent = pickle.dumps(trainer.examples.samples)
    assert len(sent) < 100_000
    again = pickle.loads(sent)[0, 0, 0]
    assert torch.equal(again.references[0]["pixels"], example.references[0]["pixels"])
    assert torch.equal(again.references[0]["wanted"], example.references[0]["wanted"])
    assert trainer._loader().multiprocessing_context.get_start_method() == "spawn"


def test_networks_presets_sizes_and_pictures(tmp_path: Path, cache: Path) -> None:
    trainer = micro.trainer(
        tmp_path / "run", cache, preset="drawn", networks={"recogniser": str(tiny.preset() / "recogniser.onnx")},
        size=64, pictures={"people": 2, "scenes": 2, "seed": 9}, spec=micro.SPEC,
    )  # fmt: skip
    assert trainer.frozen.pipe.unet.config.cross_attention_dim == 128
    assert (
        trainer.frozen.provenance["recogniser"] == micro.trainer(tmp_path / "b", cache).frozen.provenance["recogniser"]
    )
    assert trainer.examples[0, 0, 0].noise.shape == (12, 8, 8)
    assert len(trainer.source) == 4
    assert trainer.source[0].pixels.shape == (64, 64, 3)


def test_the_identity_loss_asks_the_named_recognisers(tmp_path: Path, cache: Path) -> None:
    options = {"schedule": BASE["schedule"] | {"steps": 1}, "identity_weight": 1.0}
    own = learnt(tmp_path / "own", cache, **options)
    same_again = learnt(
        tmp_path / "again", cache, **options, identity_recognisers=[str(tiny.preset() / "recogniser.onnx")]
    )
    assert same(own, same_again)
    other = learnt(tmp_path / "other", cache, **options, identity_recognisers=[str(SHIPPED / "recogniser.onnx")])
    assert not same(own, other)


@pytest.mark.slow
def test_gradients_in_bfloat16_are_those_in_float32(tmp_path: Path, cache: Path) -> None:
    """That of the localisation loss nearly cancels; of half precision's rounding nothing else would be left."""
    once = {"schedule": BASE["schedule"] | {"steps": 1}, "localisation_weight": 10.0}
    exact, rounded = (
        learnt(tmp_path / precision, cache, **once, precision=precision) for precision in ("float32", "bfloat16")
    )
    names = [name for name in exact if name.endswith("exp_avg")]
    a, b = (torch.cat([state[name].flatten() for name in names]) for state in (exact, rounded))
    assert torch.cosine_similarity(a, b, dim=0) > 0.99
    assert 0.95 < b.norm() / a.norm() < 1.05


@pytest.mark.slow
def test_the_identity_loss_begins_when_it_is_told_to(tmp_path: Path, cache: Path, plain: dict[str, Tensor]) -> None:
    late, never = ({"identity_weight": 1.0, "identity_start": share} for share in (0.5, 1.0))
    assert same(learnt(tmp_path / "never", cache, **never), plain)
    trainer = micro.trainer(tmp_path / "late", cache, **BASE | late)
    assert trainer.train()
    told = [json.loads(line) for line in (tmp_path / "late/log.jsonl").read_text().splitlines()]
    assert ["identity" in line for line in told] == [False, False, True], "from step 1.5 of 3 on"


def test_initial_weights(tmp_path: Path, cache: Path) -> None:
    adapter = tiny.preset() / "adapter"
    cid = micro.trainer(tmp_path / "a", cache, init=str(adapter), spec={}).module.cid
    stored = load_file(adapter / "model.safetensors")
    assert all(torch.equal(x, stored[name]) for name, x in cid.state_dict().items())
    # an IP-Adapter-FaceID-Plus has the same layers, but no facial encoder
    image = {k.removeprefix("image_projection."): v for k, v in stored.items() if k.startswith("image_projection.")}
    layers = {k.removeprefix("attention."): v for k, v in stored.items() if k.startswith("attention.")}
    torch.save({"image_proj": image, "ip_adapter": layers}, tmp_path / "faceid-plus.bin")
    started = micro.trainer(tmp_path / "b", cache, init=str(tmp_path / "faceid-plus.bin")).module.cid.state_dict()
    for name, x in started.items():
        assert name.startswith("facial_encoder.") or torch.equal(x, stored[name]), name
    fresh = "facial_encoder.visual_projection.latents"
    assert not torch.equal(started[fresh], stored[fresh])
    with pytest.raises(InputError, match=r"do not fit the recipe's spec and base, the first is"):
        micro.trainer(tmp_path / "c", cache, init=str(tmp_path / "faceid-plus.bin"), spec=micro.SPEC | {"lora_rank": 2})


def test_checkpoints_and_logs_come_as_often_as_asked(tmp_path: Path, cache: Path) -> None:
    learnt(tmp_path / "run", cache, checkpoints={"every": 1, "keep": 3}, log={"every": 2})
    assert len(list((tmp_path / "run").glob("checkpoint-*"))) == 3
    assert len((tmp_path / "run/log.jsonl").read_text().splitlines()) == 2


def test_tensorboard(tmp_path: Path, cache: Path) -> None:
    learnt(tmp_path / "run", cache, log={"every": 1, "tensorboard": True})
    [events] = (tmp_path / "run/tensorboard").iterdir()
    assert b"localisation" in events.read_bytes()


def test_optimiser_that_is_not_installed(tmp_path: Path, cache: Path) -> None:
    try:
        import bitsandbytes  # noqa: F401
    except ImportError:
        with pytest.raises(InputError, match=r"consistentid\[adam8bit\]"):
            micro.trainer(tmp_path / "run", cache, optimiser="adamw8bit")


class EightBit(torch.optim.Optimizer):
    """Keeps what those of bitsandbytes keep: steps counted without a tensor, and tensors of other shapes."""

    def __init__(self, parameters: Any, lr: float, weight_decay: float, betas: tuple[float, float]) -> None:
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for x in self.param_groups[0]["params"]:
            if x.grad is not None:
                state = self.state[x]
                state["step"] = state.get("step", 0) + 1
                state["absmax1"] = torch.maximum(state.get("absmax1", torch.zeros(1)), x.grad.abs().max())
                x -= self.param_groups[0]["lr"] / state["step"] * x.grad / state["absmax1"].clamp(min=1e-8)


@pytest.mark.slow
def test_what_an_8_bit_optimiser_keeps_is_kept(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", SimpleNamespace(optim=SimpleNamespace(AdamW8bit=EightBit)))
    options = {"optimiser": "adamw8bit", "checkpoints": {"every": 2}}
    whole = learnt(tmp_path / "run", cache, **options)
    assert any(name.endswith("/absmax1") for name in whole)
    shutil.rmtree(tmp_path / "run/checkpoint-3")
    assert same(learnt(tmp_path / "run", cache, **options), whole)  # from checkpoint 2


def test_the_average_is_what_is_published(tmp_path: Path, cache: Path) -> None:
    state = learnt(tmp_path / "run", cache, schedule=BASE["schedule"] | {"ema": 0.9}, trained=["facial_encoder"])
    published = load_file(tmp_path / "run/model.safetensors")
    names = [name.partition("/")[2] for name in state if name.startswith("average/")]
    assert names
    for name in names:
        assert torch.equal(published[name], state[f"average/{name}"].half())
    assert any(not torch.equal(state[f"average/{name}"], state[f"weights/{name}"]) for name in names)


def test_half_precision_is_for_computing_alone(tmp_path: Path, cache: Path) -> None:
    tiny.portrait().save(tmp_path / "who.png")
    sheets = {"every": 1, "references": [str(tmp_path / "who.png")], "prompts": ["a woman"], "steps": 1}
    once = BASE["schedule"] | {"steps": 1}
    trainer = micro.trainer(tmp_path / "run", cache, precision="bfloat16", validation=sheets, schedule=once)
    assert trainer.frozen.pipe.text_encoder.dtype == trainer.frozen.image_encoder.dtype == torch.bfloat16
    assert {x.dtype for x in trainer.parameters} == {torch.float32}
    assert trainer.train()
    assert (tmp_path / "run/validation/step-000001.png").exists()


def test_validation_shows_people_and_attention_and_changes_nothing(
    tmp_path: Path, cache: Path, plain: dict[str, Tensor]
) -> None:
    tiny.portrait().save(tmp_path / "who.png")
    options = {"every": 2, "references": [str(tmp_path / "who.png")], "prompts": ["a woman", "a man"], "steps": 2}
    assert same(learnt(tmp_path / "run", cache, validation=options), plain)
    [sheet] = (tmp_path / "run/validation").iterdir()
    assert sheet.name == "step-000002.png"


# What is refused


@pytest.fixture
def wrong(tmp_path: Path) -> Iterator[Any]:
    def read(change: str) -> TrainConfig:
        return TrainConfig.from_yaml(micro.recipe(tmp_path), (change,))

    return read


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("adapter.lerning=1", "unknown options lerning; known are schedule, size, preset"),
        ("adapter.schedule.stps=1", "adapter.schedule has unknown options stps; known are steps, batch"),
        ("adapter.schedule.lr=fast", "adapter.schedule.lr='fast' is not allowed; give a number"),
        ("adapter.schedule.steps=0", "adapter.schedule.steps=0 is not allowed; give an integer of at least 1"),
        ("adapter.people=many", "adapter.people='many' is not allowed; give an integer"),
        ("adapter.trained=[lora, vae]", "adapter.trained.1='vae' is not allowed; give one of image_projection"),
        ("adapter.trained=[]", "trained is empty"),
        ("adapter.cache=[faces]", "adapter.cache.0='faces' is not allowed; give one of latents, text, references"),
        ("adapter.condition_dropout=1.5", "adapter.condition_dropout=1.5 is not allowed; give a number from 0 to 1"),
        ("adapter.base_share=0.5", "base_share needs unet among the trained"),
        ("adapter.validation.every=5", "validation needs references"),
        ("adapter.optimiser=sgd", "adapter.optimiser='sgd' is not allowed; give one of adamw"),
        ("adapter.identity_weight=.nan", "adapter.identity_weight=nan is not allowed"),
        ("adapter.spec.id_depth=.inf", "adapter.spec.id_depth=inf is not allowed"),
        ("adapter.checkpoints.every=0", "adapter.checkpoints.every=0 is not allowed; give an integer of at least 1"),
        ("adapter.checkpoints.keep=0", "adapter.checkpoints.keep=0 is not allowed; give an integer of at least 1"),
        ("schedule.lr=1e-5", "unknown sections schedule; known are size"),
        ("adaptor.people=3", "unknown sections adaptor; known are size"),
        ("unet.schedule.lr=1e-5", "nothing reads 'unet' here; read are size, pictures, groups, adapter"),
        ("pictures.train.peple=3", "pictures.train has unknown options peple; known are people"),
        ("pictures.tain.people=3", "pictures has unknown options tain; known are train, validation, test"),
        ("adapter.spec.tokns=4", "spec has unknown options tokns; known are"),
        ("adapter", "is not of the form section.option=value"),
        ("adapter.people=[", "cannot be read as YAML"),
    ],
)
def test_wrong_options_are_told_of(wrong: Any, change: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        wrong(change)
    assert message in str(caught.value)


def numbers(kind: type, where: str = "adapter") -> Iterator[str]:
    """Every option of a dataclass that is a number."""
    for name, hint in get_type_hints(kind).items():
        if is_dataclass(hint):
            yield from numbers(hint, f"{where}.{name}")
        elif hint in (int, float):
            yield f"{where}.{name}"


def test_no_option_takes_a_number_that_is_none() -> None:
    options = list(numbers(TrainConfig))
    assert {"adapter.schedule.clip", "adapter.face_weight", "adapter.validation.guidance_scale"} < set(options)
    for option in options:
        for value in (math.nan, math.inf, -math.inf, -1, True, "1", np.float32("nan")):
            section = {"size": 32, **micro.content()["adapter"]}
            *path, name = option.split(".")[1:]
            inner = section
            for step in path:
                inner[step] = inner = dict(inner.get(step, {}))
            inner[name] = value
            with pytest.raises(InputError, match=rf"{name}=.* is not allowed; give a"):
                build(TrainConfig, section, "recipe", "adapter")


def test_every_path_of_a_recipe_is_relative_to_the_file_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere, below = tmp_path / "elsewhere", tmp_path / "recipes/below"
    for folder in (elsewhere, below):
        folder.mkdir(parents=True)
    for name in ("who.png", "judge.onnx", "own.yaml", "base", "init.bin"):
        (tmp_path / name).touch()
        (tmp_path / "recipes" / name).touch()
    places = {
        "preset": "own.yaml", "init": "init.bin", "networks": {"base": "base", "adapter": "owner/name"},
        "identity_recognisers": ["judge.onnx"],
        "validation": {"every": 1, "references": ["who.png", "../who.png"]},
    }  # fmt: skip
    micro.recipe(tmp_path / "recipes", **places)
    (below / "other.yaml").write_text("extends: ../micro.yaml\nadapter: {init: ../../init.bin}\n")
    monkeypatch.chdir(elsewhere)
    (elsewhere / "mine").touch()
    change = ("adapter.networks.base=mine",)
    config = TrainConfig.from_yaml(Path("../recipes/below/other.yaml"), change)
    recipes = tmp_path / "recipes"
    assert config.preset == str(recipes / "own.yaml")
    assert config.identity_recognisers == (recipes / "judge.onnx",)
    assert config.validation.references == (recipes / "who.png", tmp_path / "who.png")
    assert config.init == str(tmp_path / "init.bin")  # of the file that names it
    assert config.networks == {"base": str(elsewhere / "mine"), "adapter": "owner/name"}
    for name in ("drawn", "sd15"):  # a preset's name stays one, whatever lies beside the recipe
        (recipes / name).mkdir()
        assert TrainConfig.from_yaml(micro.recipe(recipes, preset=name)).preset == name
    (recipes / "preset").touch()
    assert TrainConfig.from_yaml(micro.recipe(recipes, init="preset")).init == "preset"


def test_recipes_in_a_circle(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("extends: b.yaml")
    (tmp_path / "b.yaml").write_text("extends: a.yaml")
    with pytest.raises(InputError, match="extends it in turn"):
        TrainConfig.from_yaml(tmp_path / "a.yaml")


def test_a_recipe_extends_another(tmp_path: Path) -> None:
    micro.recipe(tmp_path)
    (tmp_path / "deeper").mkdir()
    other = tmp_path / "deeper/other.yaml"
    other.write_text(yaml.safe_dump({"extends": "../micro.yaml", "adapter": {"schedule": {"lr": "1e-4"}, "views": 7}}))
    config = TrainConfig.from_yaml(other, ("adapter.views=9", "adapter.checkpoints.keep=1"))
    assert config.schedule == Schedule(steps=4, batch=4, lr=1e-4, warmup=1, seed=5)
    assert (config.views, config.checkpoints.keep, config.size) == (9, 1, 32)


def test_what_is_kept_of_a_change_is_said_anew_by_each_recipe(tmp_path: Path) -> None:
    """The weights that learnt in the one that it extends may not learn in it."""
    micro.recipe(tmp_path)
    (tmp_path / "a.yaml").write_text("extends: micro.yaml\nadapter: {change_kept: {adapter.: 0.5, unet.: 0.2}}\n")
    (tmp_path / "b.yaml").write_text("extends: a.yaml\nadapter: {change_kept: {adapter.: 0.7}}\n")
    assert TrainConfig.from_yaml(tmp_path / "b.yaml").change_kept == {"adapter.": 0.7}


RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.mark.parametrize("path", sorted(RECIPES.rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_can_be_read_and_its_files_are_there(path: Path) -> None:
    config = TrainConfig.from_yaml(path)
    files = (*config.validation.references, *config.identity_recognisers)
    assert all(file.exists() for file in files if "runs" not in file.parts), "those of runs are made by other recipes"


@pytest.mark.parametrize("name", ["drawn", "sd15", "sdxl"])
def test_the_recipes_that_ship(name: str) -> None:
    path = Path(__file__).parents[2] / f"recipes/{name}.yaml"
    config = TrainConfig.from_yaml(path)
    assert config.preset in ("drawn", name)
    assert config.schedule.batch in (16, 24, 32)
    assert load_recipe(path)["size"] == config.size
    if name != "drawn":  # the paper's settings
        assert config.schedule.lr == 1e-4
        assert (config.background_masking, config.condition_dropout, config.localisation_weight) == (0.5, 0.1, 0.01)


def test_nested_options_have_the_defaults_of_their_classes() -> None:
    config = TrainConfig(Schedule(1, 1, 1.0), 32)
    assert (config.checkpoints, config.log, config.validation) == (Checkpoints(), Log(), Validation())

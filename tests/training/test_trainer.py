"""The trainer from end to end at micro size: what it writes, what it promises of being stopped and of being shared."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import time
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import micro
import pytest
import torch
import yaml
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from torch import Tensor
from torch.distributed.tensor import DTensor

import tiny
from consistentid import ConsistentID, ConsistentIDPipeline
from consistentid.data.records import read_records, write_records
from consistentid.drawn.dataset import Drawing, draw_dataset
from consistentid.errors import InputError, TrainingError
from consistentid.training import checkpoints, precision
from consistentid.training.checkpoints import STATE
from consistentid.training.config import GROUPS, TrainConfig
from consistentid.training.examples import Example
from consistentid.training.trainer import Trainer

FULL = {
    "trained": list(GROUPS),
    "base_share": 0.4,
    "schedule": {"steps": 6, "ema": 0.9},
    "checkpoints": {"every": 2},
    "cache": ["latents", "references", "text"],
}
"""Everything that has a state: averages, the optimiser's moments of both kinds of steps, the base's weights."""

SHIPPED = Path(__file__).parents[2] / "src/consistentid/weights/drawn"

_process = get_context("fork")  # a real process, without importing everything once more


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawings and features that all tests share."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def in_one_go(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    run = tmp_path_factory.mktemp("whole") / "run"
    assert micro.trainer(run, cache, **FULL).train()
    return run


def state(run: Path) -> dict[str, Tensor]:
    newest = checkpoints.newest(run)
    assert newest is not None
    return load_file(newest / STATE)


def assert_same(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def steps(run: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (run / "log.jsonl").read_text().splitlines()]


# What it writes


def test_a_run_leaves_weights_that_load_and_a_preset_that_draws(in_one_go: Path) -> None:
    for folder in (in_one_go, in_one_go / "checkpoint-4", in_one_go / "checkpoint-6"):
        ConsistentID.from_pretrained(folder)
        studio = ConsistentIDPipeline.from_preset(folder)
        who = studio.identify(tiny.portrait())
        assert studio(who, "a woman", seed=1, width=32, height=32).images[0].size == (32, 32)
        trained = load_file(folder / "base/unet/diffusion_pytorch_model.safetensors")
        assert {x.dtype for x in trained.values()} == {torch.float16}
        torch.testing.assert_close(studio.pipe.unet.conv_in.weight.half(), trained["conv_in.weight"])
    assert (in_one_go / "model.safetensors").samefile(in_one_go / "checkpoint-6/model.safetensors")


def tree(folder: Path) -> Path:
    """A recipe, the preset that it names, a data set and a run, in folders beside one another."""
    shutil.copytree(tiny.preset(), folder / "tiny")
    shutil.copy(tiny.preset() / "recogniser.onnx", folder / "another.onnx")
    draw_dataset(Drawing(3, 2, 32, "train", 0), folder / "data")
    micro.recipe(folder / "recipes", preset="../tiny", networks={"recogniser": "../another.onnx"}, **MOVED)
    return folder


MOVED = {"trained": ["lora", "unet"], "schedule": {"steps": 3}, "checkpoints": {"every": 1, "keep": 9}}


def in_tree(folder: Path) -> Trainer:
    AcceleratorState._reset_state(reset_partial_state=True)
    config = TrainConfig.from_yaml(folder / "recipes/micro.yaml")
    return Trainer(config, folder / "run", data=folder / "data", device="cpu", say=lambda _: None)


@pytest.mark.slow
def test_a_run_that_was_moved_draws_and_goes_on(tmp_path: Path) -> None:
    assert in_tree(tree(tmp_path / "here")).train()
    before = state(tmp_path / "here/run")
    there = tmp_path / "on/another/machine"
    there.parent.mkdir(parents=True)
    (tmp_path / "here").rename(there)
    for preset in (there / "run/preset.yaml", there / "run/checkpoint-2/preset.yaml"):
        assert str(tmp_path) not in preset.read_text()
        studio = ConsistentIDPipeline.from_preset(preset.parent)
        assert studio(studio.identify(tiny.portrait()), "a woman", seed=1, width=32, height=32).images
        assert studio.preset.recogniser.path == there / "another.onnx"
    shutil.rmtree(there / "run/checkpoint-3")
    trainer = in_tree(there)
    assert trainer.step == 2
    assert trainer.train()
    assert_same(state(there / "run"), before)


def test_a_run_of_a_preset_that_ships_names_no_place_at_all(tmp_path: Path, cache: Path) -> None:
    trainer = micro.trainer(tmp_path / "run", cache, preset="drawn", size=64, trained=["lora", "unet"])
    content = yaml.safe_load(trainer._preset(tmp_path / "run"))
    assert content == {"extends": "drawn", "adapter": "./", "base": "./base"}


@pytest.mark.slow
def test_a_run_does_not_go_on_with_other_pictures_or_networks(tmp_path: Path) -> None:
    folder = tree(tmp_path / "tree")
    assert in_tree(folder).train()
    records = read_records(folder / "data")
    write_records(folder / "data", records[:-1])
    with pytest.raises(TrainingError, match=r"begun with other options: pictures '6 pictures, .* then, '5 pictures"):
        in_tree(folder)
    write_records(folder / "data", records)
    assert in_tree(folder).step == 3
    shutil.copy(SHIPPED / "recogniser.onnx", folder / "another.onnx")
    with pytest.raises(TrainingError, match="begun with other options: recogniser 'another@"):
        in_tree(folder)


@pytest.mark.slow
def test_a_run_that_was_killed_while_it_published_publishes(tmp_path: Path, cache: Path) -> None:
    micro.trainer(tmp_path / "run", cache, schedule={"steps": 1}).train()
    published = load_file(tmp_path / "run/model.safetensors")
    for name in ("preset.yaml", "model.safetensors"):
        (tmp_path / "run" / name).unlink()
    assert micro.trainer(tmp_path / "run", cache, schedule={"steps": 1}).train()
    assert_same(load_file(tmp_path / "run/model.safetensors"), published)
    assert (tmp_path / "run/preset.yaml").exists()


@pytest.mark.slow
def test_automatic_precision_is_that_of_the_run(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def options(steps: int) -> dict[str, Any]:
        return {"precision": "auto", "schedule": {"steps": 2}, "checkpoints": {"every": steps}}

    monkeypatch.setattr(precision, "bfloat16_speedup", lambda _: 3.0)
    trainer = micro.trainer(tmp_path / "run", cache, **options(1))
    assert trainer.frozen.pipe.unet.dtype == torch.bfloat16
    trainer.train()
    shutil.rmtree(tmp_path / "run/checkpoint-2")
    monkeypatch.setattr(precision, "bfloat16_speedup", lambda _: 1.1)  # as a busy machine may measure
    again = micro.trainer(tmp_path / "run", cache, **options(1))
    assert again.config.precision == "bfloat16"
    assert again.step == 1
    assert micro.trainer(tmp_path / "other", cache, **options(1)).config.precision == "float32"


def test_checkpoints_explain_themselves_and_old_ones_go(in_one_go: Path) -> None:
    assert sorted(path.name for path in in_one_go.glob("*checkpoint-*")) == ["checkpoint-4", "checkpoint-6"]
    about = json.loads((in_one_go / "checkpoint-4/training.json").read_text())
    assert about["step"] == 4
    assert about["data"] == {"samples": 16, "epoch": 1, "position": 7}
    assert about["config"]["schedule"]["lr"] == 1e-2
    assert "torch" in about["versions"]
    assert steps(in_one_go) == [1, 2, 3, 4, 5, 6]


def test_what_is_trained_changes_and_nothing_else(tmp_path: Path, cache: Path) -> None:
    trainer = micro.trainer(tmp_path / "run", cache, trained=["facial_encoder", "lora"], text_only=0.0)
    before = {name: x.clone() for name, x in trainer.module.cid.state_dict().items()}
    base = {name: x.clone() for name, x in trainer.frozen.pipe.unet.named_parameters() if "lora" not in name}
    trainer.train()
    for name, x in trainer.module.cid.state_dict().items():
        learns = name.startswith("facial_encoder.") or "_lora." in name
        assert learns or torch.equal(x, before[name]), name
    assert not torch.equal(trainer.module.cid.state_dict()["attention.0.to_q_lora.up.weight"], torch.zeros(16, 4))
    for name, x in trainer.frozen.pipe.unet.named_parameters():
        assert "lora" in name or "processor" in name or torch.equal(x, base[name]), name


# Being stopped


def _train(run: Path, cache: Path, pause: float, options: dict[str, object]) -> None:
    trainer = micro.trainer(run, cache, **options)
    step = trainer._one_step

    def slowly(parts: list[list[Example]]) -> None:
        time.sleep(pause)
        step(parts)

    trainer._one_step = slowly  # type: ignore[method-assign]
    os._exit(0 if trainer.train() else 3)


def _stopped(run: Path, cache: Path, number: int, after: int) -> int | None:
    """The exit code of a training that gets a signal once it has logged some steps."""
    child = _process.Process(target=_train, args=(run, cache, 1.0, FULL))
    child.start()
    deadline = time.monotonic() + 500
    while not (run / "log.jsonl").exists() or len(steps(run)) < after:
        assert child.is_alive()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert child.pid is not None
    os.kill(child.pid, number)
    child.join()
    return child.exitcode


@pytest.mark.slow
def test_a_killed_run_goes_on_as_if_nothing_had_been(tmp_path: Path, cache: Path, in_one_go: Path) -> None:
    run = tmp_path / "run"
    assert _stopped(run, cache, signal.SIGKILL, after=3) == -signal.SIGKILL
    trainer = micro.trainer(run, cache, **FULL)
    assert trainer.step in (2, 4)
    assert trainer.train()
    assert_same(state(run), state(in_one_go))
    assert steps(run) == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
def test_a_terminated_run_saves_and_goes_on(tmp_path: Path, cache: Path, in_one_go: Path) -> None:
    run = tmp_path / "run"
    assert _stopped(run, cache, signal.SIGTERM, after=1) == 3  # told to stop, it ended by itself
    newest = checkpoints.newest(run)
    assert newest is not None
    assert newest.name != "checkpoint-6"
    assert micro.trainer(run, cache, **FULL).train()
    assert_same(state(run), state(in_one_go))


@pytest.mark.slow
def test_a_full_disk_leaves_the_checkpoint_before(
    tmp_path: Path, cache: Path, in_one_go: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, save_file = tmp_path / "run", checkpoints.save_file
    trainer = micro.trainer(run, cache, **FULL)

    def full(tensors: dict[str, Tensor], path: Path, **options: object) -> None:
        if trainer.step == 4 and path.name == STATE:
            path.write_bytes(b"half a check")
            raise OSError(errno.ENOSPC, "No space left on device")
        save_file(tensors, path, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(checkpoints, "save_file", full)
    with pytest.raises(InputError, match=r"checkpoint-4.*the disk is full.*the checkpoint before it is whole"):
        trainer.train()
    monkeypatch.undo()
    assert [path.name for path in run.glob("*checkpoint*")] == ["checkpoint-2"]
    assert micro.trainer(run, cache, **FULL).train()
    assert_same(state(run), state(in_one_go))


def test_a_finished_run_is_not_trained_further(in_one_go: Path, cache: Path) -> None:
    before = (in_one_go / "checkpoint-6" / STATE).stat().st_mtime_ns
    assert micro.trainer(in_one_go, cache, **FULL).train()
    assert (in_one_go / "checkpoint-6" / STATE).stat().st_mtime_ns == before


def test_a_run_does_not_go_on_with_other_options(in_one_go: Path, cache: Path) -> None:
    with pytest.raises(TrainingError, match=r"begun with other options: face_weight 0\.0 then, 1\.0 now"):
        micro.trainer(in_one_go, cache, **FULL, face_weight=1.0)


@pytest.mark.slow
def test_a_run_of_a_version_without_an_option_goes_on_as_by_its_default(tmp_path: Path, cache: Path) -> None:
    once = {"steps": 1, "batch": 2}
    assert micro.trainer(tmp_path / "run", cache, schedule=once).train()
    file = tmp_path / "run/checkpoint-1/training.json"
    about = json.loads(file.read_text())
    about["config"] = {name: x for name, x in about["config"].items() if name not in ("change_kept", "id_dropout")}
    file.write_text(json.dumps(about))
    assert micro.trainer(tmp_path / "run", cache, schedule=once).step == 1
    with pytest.raises(TrainingError, match=r"begun with other options: id_dropout 0\.0 then, 0\.5 now"):
        micro.trainer(tmp_path / "run", cache, schedule=once, id_dropout=0.5)


# Losses that are not finite


def test_a_loss_that_is_not_finite_is_left_out_and_told_of(
    tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = micro.trainer(tmp_path / "run", cache, background_masking=0.0)
    batch, spoilt = trainer.examples.batch, []

    def once(examples: list[Example]):
        made = batch(examples)
        if examples[0].step in (1,):
            made.latents[2] = torch.nan
            spoilt.append(examples[2].key)
        return made

    trainer.examples.batch = once  # type: ignore[method-assign]
    assert trainer.train()
    assert f"step 2 is skipped: the loss of {spoilt[0]} is not finite" in capsys.readouterr().out
    assert all(torch.isfinite(x).all() for x in state(tmp_path / "run").values())


def test_it_stops_when_no_loss_is_finite(tmp_path: Path, cache: Path) -> None:
    trainer = micro.trainer(tmp_path / "run", cache, schedule={"lr": 1e20, "weight_decay": 0.0})
    with pytest.raises(TrainingError, match=r"is not finite at step \d, and 3 steps in a row were skipped"):
        trainer.train()


# Several processes


def _share(rank: int, run: Path, cache: Path, options: dict[str, Any]) -> None:
    """What torchrun sets, and one process of two."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    os.environ |= {"MASTER_PORT": "29517", "LOCAL_WORLD_SIZE": "2"}
    trainer = micro.trainer(run, cache, **options)
    sharded = {isinstance(x, DTensor) for x in trainer.parameters}
    trainer.train()
    os._exit(0 if sharded == {options.get("sharded", False)} else 4)


def _shared(run: Path, cache: Path, **options: Any) -> None:
    """Train in two processes."""
    children = [_process.Process(target=_share, args=(rank, run, cache, options)) for rank in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0, 0]


def assert_same_gradients(run: Path, other: Path) -> None:
    one, two = state(run), state(other)
    assert one.keys() == two.keys()
    for name in one:
        if name.startswith("optimiser/") and name.endswith("exp_avg"):  # a mean of the gradients
            torch.testing.assert_close(two[name], one[name], rtol=1e-3, atol=1e-6)


@pytest.mark.slow
def test_two_processes_train_like_one(tmp_path: Path, cache: Path) -> None:
    """The batch is that of all processes, so two with half of it each have one's gradients, and so its weights."""
    options = {"base_share": 0.5, "trained": list(GROUPS), "checkpoints": {"every": 1}}
    micro.trainer(tmp_path / "one", cache, **options).train()
    _shared(tmp_path / "two", cache, **options)
    assert_same_gradients(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
def test_two_processes_with_half_of_the_weights_each_train_like_one(tmp_path: Path, cache: Path) -> None:
    """FSDP, in parts of a batch; and what it saved goes on in one process."""
    options = {"trained": list(GROUPS), "checkpoints": {"every": 2}, "accumulate": 2}
    options["schedule"] = {"steps": 3, "ema": 0.9}
    micro.trainer(tmp_path / "one", cache, **options).train()
    _shared(tmp_path / "two", cache, sharded=True, **options)
    assert_same_gradients(tmp_path / "one", tmp_path / "two")
    ConsistentID.from_pretrained(tmp_path / "two")
    shutil.rmtree(tmp_path / "two/checkpoint-3")
    assert micro.trainer(tmp_path / "two", cache, **options).train()
    assert_same_gradients(tmp_path / "one", tmp_path / "two")
    shutil.rmtree(tmp_path / "one/checkpoint-3")
    _shared(tmp_path / "one", cache, sharded=True, **options)  # and the other way round
    assert_same_gradients(tmp_path / "one", tmp_path / "two")


def test_sharding_without_gpus_is_refused(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    with pytest.raises(InputError, match="among several GPUs only; leave out --use_fsdp"):
        micro.trainer(tmp_path / "run", cache)


def test_a_batch_that_cannot_be_shared_is_refused(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(InputError, match=r"make schedule\.batch a multiple of 3"):
        micro.trainer(tmp_path / "run", cache, accumulate=3)

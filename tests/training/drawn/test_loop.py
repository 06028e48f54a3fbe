"""The training loop: what it promises of order, schedule, averages and, above all, of being stopped."""

from __future__ import annotations

import json
import math
import os
import signal
import time
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import counting
import numpy as np
import pytest
import torch
from accelerate import PartialState
from torch import Tensor, nn

from consistentid.errors import InputError, TrainingError
from consistentid.training import precision
from consistentid.training.drawn import loop
from consistentid.training.drawn.loop import REPORT, STATE, Opponent, gathered, stage_folder, train
from consistentid.training.log import LOG
from consistentid.training.precision import resolve_precision
from consistentid.training.schedule import Schedule, batch_indices, batched, shuffled
from consistentid.training.state import read_about, read_tensors

CPU = torch.device("cpu")


def state_file(out: Path, name: str) -> Path:
    return stage_folder(out, name) / STATE


def weights(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def assert_same(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


# Order


@pytest.mark.parametrize(("count", "batch"), [(10, 4), (7, 7), (5, 12), (64, 1), (9, 3)])
def test_every_epoch_has_every_row_once(count: int, batch: int) -> None:
    steps = 4 * count  # of which the last epoch ends with a batch
    order = np.concatenate([batch_indices(shuffled(count, 3), batch, step) for step in range(steps)])
    epochs = order.reshape(-1, count)
    assert (np.sort(epochs, axis=1) == np.arange(count)).all()
    assert count == 1 or len({tuple(e) for e in epochs[:4]}) > 1  # shuffled anew


def test_the_order_follows_from_seed_and_step_alone() -> None:
    np.testing.assert_array_equal(batch_indices(shuffled(100, 1), 8, 40), batch_indices(shuffled(100, 1), 8, 40))
    assert (batch_indices(shuffled(100, 1), 8, 40) != batch_indices(shuffled(100, 2), 8, 40)).any()


def test_training_takes_the_rows_in_that_order(tmp_path: Path) -> None:
    seen: list[np.ndarray] = []
    counting.run(tmp_path, counting.model(), seen=seen)
    schedule = counting.SCHEDULE
    assert len(seen) == schedule.steps
    order = shuffled(counting.ROWS, schedule.seed)
    for step, rows in enumerate(seen):
        np.testing.assert_array_equal(rows, batch_indices(order, schedule.batch, step))


def test_slices_cover_everything_once() -> None:
    assert [list(range(10))[part] for part in batched(10, 4)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_the_rate_warms_up_and_falls_like_a_cosine() -> None:
    schedule = Schedule(steps=110, batch=1, lr=2.0, warmup=10, final_lr=0.1)
    assert schedule.rate(0) == pytest.approx(0.2)
    assert schedule.rate(9) == pytest.approx(2.0)
    assert schedule.rate(10) == pytest.approx(2.0)
    assert schedule.rate(60) == pytest.approx(2.0 * 0.55)
    assert schedule.rate(110) == pytest.approx(0.2)
    assert schedule.rate(10**6) == pytest.approx(0.2)


# Stopping


PRECISIONS = ("float32", "bfloat16")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Tensor]]:
    """The weights of a run that nothing stopped, by precision; and of its critic."""
    found = {}
    for name in PRECISIONS:
        network, against = counting.model(), counting.critic()
        counting.run(tmp_path_factory.mktemp("whole"), network, precision=name, against=against)
        found[name] = both(network, against)
    return found


@pytest.fixture
def in_one_go(whole: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
    return whole["float32"]


def both(network: nn.Module, against: nn.Module) -> dict[str, Tensor]:
    return weights(network) | {f"critic.{name}": x for name, x in weights(against).items()}


def resumed(out: Path, precision: str = "float32") -> tuple[dict[str, Tensor], int]:
    """The weights after going on, and the steps that were left."""
    seen: list[np.ndarray] = []
    network, against = counting.model(), counting.critic()
    counting.run(out, network, seen=seen, precision=precision, against=against)
    return both(network, against), len(seen)


def step_of(path: Path) -> int:
    return int(read_about(path)["step"]) if path.exists() else 0


def interrupted(out: Path, number: int, world: int = 1, after: int = 7) -> tuple[list[int | None], int]:
    """A run that gets a signal in its middle: the exit codes of its processes, and the step of its checkpoint."""
    state = state_file(out, "sums")
    children = counting.processes(out, world)
    try:
        deadline = time.monotonic() + 300
        while step_of(state) < after:
            assert all(child.is_alive() for child in children), "the run ended by itself"
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        for child in children:
            os.kill(child.pid or 0, number)
        for child in children:
            child.join()
    return [child.exitcode for child in children], step_of(state)


def test_a_killed_run_goes_on_as_if_nothing_had_been(tmp_path: Path, in_one_go: dict[str, Tensor]) -> None:
    _, step = interrupted(tmp_path, signal.SIGKILL)
    assert 7 <= step < counting.SCHEDULE.steps
    found, left = resumed(tmp_path)
    assert left == counting.SCHEDULE.steps - step
    assert_same(found, in_one_go)
    seconds = [json.loads(line)["seconds"] for line in (stage_folder(tmp_path, "sums") / LOG).read_text().splitlines()]
    assert seconds[-1] >= 7 * 0.05  # what was before the kill counts


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_run_that_is_told_to_stop_saves_its_last_step(
    tmp_path: Path, in_one_go: dict[str, Tensor], number: int
) -> None:
    codes, step = interrupted(tmp_path, number)
    assert codes == [counting.STOPPED]
    found, left = resumed(tmp_path)
    assert left == counting.SCHEDULE.steps - step
    assert_same(found, in_one_go)


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_kill_while_a_checkpoint_is_written_leaves_the_one_before(
    tmp_path: Path, whole: dict[str, dict[str, Tensor]], monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    write, saved = loop.write_tensors, []

    def torn(path: Path, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
        saved.append(about["step"])
        if len(saved) == 20:
            path.write_bytes(b"half a check")
            raise KeyboardInterrupt
        write(path, tensors, about)

    monkeypatch.setattr(loop, "write_tensors", torn)
    with pytest.raises(KeyboardInterrupt):
        counting.run(tmp_path, counting.model(), precision=precision)
    monkeypatch.undo()
    found, left = resumed(tmp_path, precision)
    assert left == counting.SCHEDULE.steps - 19
    assert_same(found, whole[precision])


def test_a_checkpoint_of_which_a_power_cut_left_zeros_is_not_gone_on_from(tmp_path: Path) -> None:
    counting.run(tmp_path, counting.model())
    path = state_file(tmp_path, "sums")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 3 // 4] + bytes(len(data) - len(data) * 3 // 4))
    with pytest.raises(TrainingError, match=r"sums/state\.safetensors: is damaged .*delete it to begin"):
        counting.run(tmp_path, counting.model())


def test_the_checkpoint_of_another_network_is_not_gone_on_from(tmp_path: Path) -> None:
    counting.run(tmp_path, counting.model())
    wider = nn.Sequential(nn.Linear(3, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Linear(9, 1))
    with pytest.raises(TrainingError, match=r"has another 0\.bias than this network; delete it"):
        counting.run(tmp_path, wider)


def test_a_finished_run_is_not_trained_further(tmp_path: Path, in_one_go: dict[str, Tensor]) -> None:
    counting.run(tmp_path, counting.model())
    found, left = resumed(tmp_path)
    assert left == 0
    assert_same(found, in_one_go)


# Two networks


def test_each_network_learns_by_its_own_losses_alone(tmp_path: Path) -> None:
    """Of a game in which what helps one hurts the other, each moves its own way only."""
    us, them = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    for network in (us, them):
        nn.init.ones_(network.weight)

    def product() -> Tensor:
        return (us.weight * them.weight).sum()

    def ours(*_: object) -> dict[str, Tensor]:
        assert us.weight.requires_grad
        assert not them.weight.requires_grad
        return {"loss": product()}

    def theirs(*_: object) -> dict[str, Tensor]:
        assert not us.weight.requires_grad
        return {"loss": -product()}

    own = Schedule(steps=9, batch=1, lr=0.01, warmup=0, weight_decay=0.0, final_lr=1.0)
    schedule = Schedule(steps=10, batch=1, lr=0.1, warmup=0, weight_decay=0.0, final_lr=1.0)
    train(
        "game", us, ours, schedule, 4, tmp_path, device=CPU, opponents=[Opponent("them", them, theirs, own)],
        precision="float32",
    )  # fmt: skip
    assert us.weight.item() < 0.5
    assert 1.02 < them.weight.item() < 1.2  # its rate is a tenth
    assert us.weight.requires_grad
    assert them.weight.requires_grad
    [row] = [json.loads(line) for line in (stage_folder(tmp_path, "game") / LOG).read_text().splitlines()]
    assert row["them/loss"] == pytest.approx(-row["loss"], abs=0.2)


# Batches


def doubled(data: Tensor, rows: np.ndarray, seed: int) -> tuple[Tensor, int]:
    """Prepared as a training's batches are: a function of a module."""
    return 2 * data[torch.from_numpy(rows)], seed


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_batches_are_prepared_of_rows_and_seed_ahead_or_not(tmp_path: Path, workers: int) -> None:
    data = torch.linspace(-1, 1, 24).view(12, 2)
    network, seen = nn.Linear(2, 1), []

    def loss(batch: tuple[Tensor, int], generator: torch.Generator) -> dict[str, Tensor]:
        x, seed = batch
        assert seed == generator.initial_seed()
        seen.append(x)
        return {"loss": network(x).square().mean()}

    schedule = Schedule(steps=7, batch=4, lr=0.1, warmup=0, seed=3)
    prepared = partial(doubled, data)
    train(
        "ahead", network, loss, schedule, 12, tmp_path, device=CPU, precision="float32", prepared=prepared,
        workers=workers,
    )  # fmt: skip
    for step, x in enumerate(seen):
        assert torch.equal(x, 2 * data[batch_indices(shuffled(12, 3), 4, step)])
    assert len(seen) == 7


# Several processes


@pytest.mark.slow
def test_two_processes_share_each_step_and_go_on_bit_by_bit(tmp_path: Path, in_one_go: dict[str, Tensor]) -> None:
    def finish(out: Path) -> dict[str, Tensor]:
        children = counting.processes(out, 2, pause=0.0)
        for child in children:
            child.join()
        assert [child.exitcode for child in children] == [0, 0]
        return read_tensors(state_file(out, "sums"))

    once = finish(tmp_path / "whole")
    assert read_about(state_file(tmp_path / "whole", "sums"))["processes"] == 2
    assert all(torch.isfinite(x).all() for x in once.values())
    codes, step = interrupted(tmp_path / "stopped", signal.SIGTERM, world=2, after=5)
    assert codes == [counting.STOPPED] * 2  # both after the same step
    assert step < counting.SCHEDULE.steps
    assert_same(finish(tmp_path / "stopped"), once)
    _, step = interrupted(tmp_path / "killed", signal.SIGKILL, world=2, after=5)
    assert step < counting.SCHEDULE.steps
    assert_same(finish(tmp_path / "killed"), once)


def _half(rank: int, out: Path, step: Any) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29537"}
    PartialState._reset_state()
    torch.set_num_threads(1)
    step(out)
    os._exit(0)


def test_two_processes_take_the_step_of_one(tmp_path: Path) -> None:
    """Also where a loss compares each sample with all others of the batch."""
    data = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))

    def step(out: Path) -> None:
        torch.manual_seed(0)
        network = nn.Linear(3, 2)

        def loss(rows: np.ndarray, _: torch.Generator) -> dict[str, Tensor]:
            found = gathered(network(data[torch.from_numpy(rows)]))
            others = gathered(torch.from_numpy(rows)).float()
            similarity = found @ found.T
            return {"loss": (similarity - (others[:, None] - others).abs()).square().mean()}

        schedule = Schedule(steps=2, batch=8, lr=0.1, warmup=0)
        train("alike", network, loss, schedule, 8, out, device=CPU, precision="float32")

    step(tmp_path / "one")
    children = [get_context("fork").Process(target=_half, args=(rank, tmp_path / "two", step)) for rank in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0, 0]
    one, two = (read_tensors(state_file(tmp_path / name, "alike")) for name in ("one", "two"))
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-4, atol=1e-5)


def test_a_batch_that_cannot_be_shared_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "PartialState", lambda **_: SimpleNamespace(num_processes=3))
    with pytest.raises(InputError, match="sums: a batch of 4 cannot be shared by 3 processes; make it a multiple of 3"):
        counting.run(tmp_path, counting.model())


# Precision


@pytest.mark.slow
def test_automatic_precision_measures_and_an_interrupted_run_keeps_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for speedup, before, chosen in (
        (3.0, None, "bfloat16"), (0.01, None, "float32"), (1.1, None, "float32"),
        (1.1, "bfloat16", "bfloat16"), (0.01, "bfloat16", "float32"), (3.0, "float32", "float32"),
    ):  # fmt: skip
        monkeypatch.setattr(precision, "bfloat16_speedup", lambda _, speedup=speedup: speedup)
        told: list[str] = []
        assert resolve_precision("auto", CPU, before=before, say=told.append) == chosen
        assert chosen in told[0]
        assert f"{speedup:.2g} times" in told[0]
    monkeypatch.undo()
    assert 1e-3 < precision.bfloat16_speedup(CPU) < 1e3
    counting.run(tmp_path, counting.model(), precision="auto")
    assert read_about(state_file(tmp_path, "sums"))["precision"] in PRECISIONS


def test_bfloat16_is_for_computing_alone(tmp_path: Path, whole: dict[str, dict[str, Tensor]]) -> None:
    network = nn.Conv2d(4, 4, 3)
    seen = []

    def loss(*_: object) -> dict[str, Tensor]:
        out = network(torch.ones(1, 4, 8, 8))
        seen.append((out.dtype, network.weight.dtype, network.weight.is_contiguous(memory_format=torch.channels_last)))
        return {"loss": out.float().square().mean()}

    schedule = Schedule(steps=1, batch=1, lr=0.1, warmup=0)
    train("conv", network, loss, schedule, 4, tmp_path, device=CPU, precision="bfloat16")
    assert seen == [(torch.bfloat16, torch.float32, True)]
    assert network.weight.is_contiguous()  # as files want it
    assert not torch.equal(whole["float32"]["0.weight"], whole["bfloat16"]["0.weight"])


# Learning


def test_it_learns_and_keeps_a_log_and_a_report(tmp_path: Path) -> None:
    network = nn.Linear(1, 1)
    x = torch.linspace(-1, 1, 16)[:, None]

    def loss(rows: np.ndarray, _: torch.Generator) -> dict[str, Tensor]:
        error = (network(x[rows]) - (3 * x[rows] - 1)).square().mean()
        return {"loss": error, "double": 2 * error}

    schedule = Schedule(steps=250, batch=8, lr=0.1, warmup=10, weight_decay=0.0)
    slope = {"slope": network.weight.detach()}
    train(
        "line",
        network,
        loss,
        schedule,
        16,
        tmp_path,
        device=CPU,
        precision="float32",
        report=lambda: {"slope": float(slope["slope"])},
    )
    assert network.weight.item() == pytest.approx(3, abs=0.02)
    assert network.bias.item() == pytest.approx(-1, abs=0.02)
    assert not network.training
    log = [json.loads(line) for line in (stage_folder(tmp_path, "line") / LOG).read_text().splitlines()]
    assert [row["step"] for row in log] == [100, 200, 250]
    assert log[0]["loss"] > log[1]["loss"] > log[2]["loss"]
    assert log[1]["double"] == pytest.approx(2 * log[1]["loss"], abs=2e-5)
    assert json.loads((stage_folder(tmp_path, "line") / REPORT).read_text())["slope"] == pytest.approx(3, abs=0.02)


def test_averaged_weights_lag_behind_the_last_ones(tmp_path: Path) -> None:
    def trained(ema: float) -> float:
        network = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(network.weight)
        schedule = Schedule(steps=40, batch=1, lr=0.1, warmup=1, weight_decay=0.0, ema=ema, final_lr=1.0)
        loss = lambda *_: {"loss": -network.weight.sum()}  # noqa: E731  # a constant pull upwards
        train("pull", network, loss, schedule, 4, tmp_path / str(ema), device=CPU, precision="float32")
        return network.weight.item()

    assert trained(0.0) == pytest.approx(4.0, rel=1e-3)
    assert 0 < trained(0.9) < 3.8


def test_it_stops_when_no_loss_is_finite(tmp_path: Path) -> None:
    network = nn.Linear(1, 1, bias=False)
    before = network.weight.item()
    loss = lambda *_: {"loss": network.weight.sum() * math.nan}  # noqa: E731
    schedule = Schedule(steps=100, batch=1, lr=0.1)
    with pytest.raises(TrainingError, match=r"the loss of pull is not finite .*at step 3, and 3 steps in a row"):
        train("pull", network, loss, schedule, 4, tmp_path, device=CPU, precision="float32")
    assert network.weight.item() == before


def test_a_step_that_is_not_finite_is_left_out(tmp_path: Path) -> None:
    network = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(network.weight)
    steps = iter(range(100))

    def loss(*_: object) -> dict[str, Tensor]:
        return {"loss": -network.weight.sum() * (math.nan if next(steps) == 5 else 1.0)}

    schedule = Schedule(steps=10, batch=1, lr=0.1, warmup=1, weight_decay=0.0, final_lr=1.0)
    train("pull", network, loss, schedule, 4, tmp_path, device=CPU, precision="float32")
    assert network.weight.item() == pytest.approx(0.9, rel=1e-3)
    assert math.isfinite(json.loads((stage_folder(tmp_path, "pull") / LOG).read_text())["loss"])

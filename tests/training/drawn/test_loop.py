"""The training loop: what it promises of order, schedule, averages and, above all, of being stopped."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from pathlib import Path

import counting
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from consistentid.training.drawn.loop import train
from consistentid.training.schedule import Schedule, batch_indices, batched, shuffled

CPU = torch.device("cpu")


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


@pytest.fixture(scope="module")
def in_one_go(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    return weights(counting.run(tmp_path_factory.mktemp("whole"), counting.model()))


def test_a_killed_run_goes_on_as_if_nothing_had_been(tmp_path: Path, in_one_go: dict[str, Tensor]) -> None:
    state = tmp_path / "sums.state.pt"
    child = subprocess.Popen([sys.executable, counting.__file__, str(tmp_path)], stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 300
        while not state.exists() or torch.load(state, weights_only=True)["step"] < 7:
            assert child.poll() is None, "the run ended by itself"
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        child.kill()
        child.wait()
    step = torch.load(state, weights_only=True)["step"]
    assert 7 <= step < counting.SCHEDULE.steps
    seen: list[np.ndarray] = []
    resumed = counting.run(tmp_path, counting.model(), seen=seen)
    assert len(seen) == counting.SCHEDULE.steps - step
    assert_same(weights(resumed), in_one_go)


def test_a_kill_while_a_checkpoint_is_written_leaves_the_one_before(
    tmp_path: Path, in_one_go: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    save, saved = torch.save, []

    def torn(state: dict[str, object], path: Path) -> None:
        saved.append(state["step"])
        if len(saved) == 20:
            path.write_bytes(b"half a check")
            raise KeyboardInterrupt
        save(state, path)

    monkeypatch.setattr(torch, "save", torn)
    with pytest.raises(KeyboardInterrupt):
        counting.run(tmp_path, counting.model())
    monkeypatch.undo()
    seen: list[np.ndarray] = []
    resumed = counting.run(tmp_path, counting.model(), seen=seen)
    assert len(seen) == counting.SCHEDULE.steps - 19
    assert_same(weights(resumed), in_one_go)


def test_a_finished_run_is_not_trained_further(tmp_path: Path, in_one_go: dict[str, Tensor]) -> None:
    counting.run(tmp_path, counting.model())
    seen: list[np.ndarray] = []
    assert_same(weights(counting.run(tmp_path, counting.model(), seen=seen)), in_one_go)
    assert seen == []


# Learning


def test_it_learns_and_keeps_a_log_and_a_report(tmp_path: Path) -> None:
    network = nn.Linear(1, 1)
    x = torch.linspace(-1, 1, 16)[:, None]

    def loss(rows: np.ndarray, _: torch.Generator) -> dict[str, Tensor]:
        error = (network(x[rows]) - (3 * x[rows] - 1)).square().mean()
        return {"loss": error, "double": 2 * error}

    schedule = Schedule(steps=250, batch=8, lr=0.1, warmup=10, weight_decay=0.0)
    slope = {"slope": network.weight.detach()}
    train("line", network, loss, schedule, 16, tmp_path, device=CPU, report=lambda: {"slope": float(slope["slope"])})
    assert network.weight.item() == pytest.approx(3, abs=0.02)
    assert network.bias.item() == pytest.approx(-1, abs=0.02)
    assert not network.training
    log = [json.loads(line) for line in (tmp_path / "line.jsonl").read_text().splitlines()]
    assert [row["step"] for row in log] == [100, 200, 250]
    assert log[0]["loss"] > log[1]["loss"] > log[2]["loss"]
    assert log[1]["double"] == pytest.approx(2 * log[1]["loss"], abs=2e-5)
    assert json.loads((tmp_path / "line.report.json").read_text())["slope"] == pytest.approx(3, abs=0.02)


def test_averaged_weights_lag_behind_the_last_ones(tmp_path: Path) -> None:
    def trained(ema: float) -> float:
        network = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(network.weight)
        schedule = Schedule(steps=40, batch=1, lr=0.1, warmup=1, weight_decay=0.0, ema=ema, final_lr=1.0)
        loss = lambda *_: {"loss": -network.weight.sum()}  # noqa: E731  # a constant pull upwards
        train("pull", network, loss, schedule, 4, tmp_path / str(ema), device=CPU)
        return network.weight.item()

    assert trained(0.0) == pytest.approx(4.0, rel=1e-3)
    assert 0 < trained(0.9) < 3.8


def test_a_step_that_is_not_finite_is_left_out(tmp_path: Path) -> None:
    network = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(network.weight)
    steps = iter(range(100))

    def loss(*_: object) -> dict[str, Tensor]:
        return {"loss": -network.weight.sum() * (math.nan if next(steps) == 5 else 1.0)}

    schedule = Schedule(steps=10, batch=1, lr=0.1, warmup=1, weight_decay=0.0, final_lr=1.0)
    train("pull", network, loss, schedule, 4, tmp_path, device=CPU)
    assert network.weight.item() == pytest.approx(0.9, rel=1e-3)

"""The training loop that all networks of the drawn preset share: schedule, precision, EMA, checkpoints, processes.

```python
def prepared(rows, seed):                  # this process's samples of a step, made ahead by worker processes
    return torch.from_numpy(images[rows])

def losses(batch, generator):              # of what was prepared; all randomness from the generator
    return {"loss": ..., "l1": ...}        # "loss" is what the model lowers, the others are told of

if train("decoder", model, losses, schedule, len(pool), out, device=device, prepared=prepared, report=report):
    model.save_pretrained(out / "vae")     # in one process only: the others get False
```

A second network with aims of its own, such as a discriminator, comes along as an `Opponent`.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed
from accelerate import PartialState
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils import data

from consistentid.errors import InputError, TrainingError
from consistentid.files.writing import replacing, write_whole
from consistentid.training.attention import fused_attention, plain_attention
from consistentid.training.averages import averages
from consistentid.training.log import append, cut
from consistentid.training.precision import computing, laid_out, resolve_precision
from consistentid.training.schedule import Schedule, batch_indices, shuffled
from consistentid.training.state import (
    DamagedError,
    misfits,
    optimiser_state,
    read_about,
    read_tensors,
    restore_optimiser,
    write_tensors,
)
from consistentid.training.stopping import SKIPS, Stopped, stop_asked

Losses = dict[str, Tensor]
Loss = Callable[[Any, torch.Generator], Losses]
Prepared = Callable[[NDArray[np.int64], int], Any]

STATE = "state.safetensors"
REPORT = "report.json"

LOG_EVERY = 100  # steps


@dataclass(frozen=True)
class Opponent:
    """A network that learns beside the model, by losses and an optimiser of its own: a discriminator.

    Attributes:
        name: tells its losses and weights from the model's.
        model: what learns; its weights are fixed while the model's losses are computed, and the other way round.
        losses: as the model's; called after the model's step with the same batch, and the generator goes on. What the
            model's losses have drawn for it (detached pictures) it finds where they put it.
        schedule: its rates, clipping and averages; steps, batch and seed are the model's.
    """

    name: str
    model: nn.Module
    losses: Loss
    schedule: Schedule


def train(
    name: str,
    model: nn.Module,
    loss: Loss,
    schedule: Schedule,
    count: int,
    out: Path,
    *,
    device: torch.device,
    prepared: Prepared | None = None,
    workers: int = 0,
    report: Callable[[], dict[str, float]] | None = None,
    opponents: Sequence[Opponent] = (),
    precision: str = "auto",
    checkpoint_seconds: float = 60.0,
) -> bool:
    """Train ``model`` in place until ``schedule.steps``; on return it holds the averaged weights where EMA is on.

    ``loss(batch, generator)`` gives named losses, of which ``loss`` is minimised. All randomness of a step comes from
    its generator, seeded by the step, so a run that was interrupted equals one that was not.

    Under `torchrun` each process has its share of every step's rows, and gradients, batch statistics and losses are
    averaged: all hold the same weights at any time. Losses that compare the samples of a batch compare those of all
    processes where they ask `gathered` for them.

    Args:
        name: of the folder ``out/stages/NAME`` that holds checkpoint, log and report.
        count: samples of an epoch.
        prepared: makes the batch that the losses take, of the rows of this process's samples and the seed of its
            generator; without it they take the rows themselves.
        workers: processes that prepare batches ahead of their step, to which ``prepared`` is sent; 0 for none.
        report: figures of the trained model, written to the report.
        opponents: networks that learn along.
        precision: of `consistentid.training.precision.PRECISIONS`; networks are called under autocast.

    Returns:
        Whether this process is the one that writes files.

    Raises:
        TrainingError: the checkpoint is damaged or another network's; no finite loss several steps in a row.
        InputError: a batch that the processes cannot share; a file cannot be written.
        Stopped: it was told to (SIGINT, SIGTERM), and has saved; the same line goes on from there.
    """
    processes = PartialState(cpu=device.type == "cpu")
    if schedule.batch % processes.num_processes:
        raise InputError(
            f"{name}: a batch of {schedule.batch} cannot be shared by {processes.num_processes} processes; make it a"
            f" multiple of {processes.num_processes}"
        )
    folder = stage_folder(out, name)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / STATE
    tensors, about = _found(path)
    precision = resolve_precision(precision, device, before=about.get("precision"))
    learning = [_Learning("model", model, loss, schedule, precision)]
    learning += [_Learning(x.name, x.model, x.losses, x.schedule, precision) for x in opponents]
    _begin_alike(learning, processes)
    for each in learning:
        each.restore(tensors, about, path)
    start, before = about.get("step", 0), about.get("seconds", 0.0)
    began = saved = time.monotonic()
    log = _Log(name, folder, about.get("smooth", {}), start, processes.is_main_process)

    def save(step: int) -> None:
        if not processes.is_main_process:
            return
        told = {"step": step, "seconds": round(before + time.monotonic() - began, 1), "precision": precision}
        told |= {"processes": processes.num_processes, "smooth": log.smooth}
        told |= {"averaged": {each.name: each.averaged for each in learning}}
        with replacing(path, durable=True) as temporary:
            write_tensors(temporary, {k: x for each in learning for k, x in each.state().items()}, told)

    batches = _Batches(prepared, schedule, count, processes.process_index, processes.num_processes)
    loader = batches.ahead(range(start, schedule.steps), workers, device)
    skipped = 0
    with stop_asked() as stop:
        for step, batch in zip(range(start, schedule.steps), loader, strict=True):
            generator = torch.Generator(device).manual_seed(batches.seed(step))
            losses: dict[str, float] = {}
            stopping, blamed = stop.is_set(), ""
            for each in learning:
                _only(each, learning)
                found, stopping = each.step(step, batch, generator, processes, stopping)
                losses |= found
                if not all(map(math.isfinite, found.values())):
                    blamed = f"the loss of {name} is not finite ({_named(found)})"
            skipped = skipped + 1 if blamed else 0
            if skipped >= SKIPS:
                raise TrainingError(
                    f"{blamed} at step {step + 1}, and {SKIPS} steps in a row were skipped; take a lower learning rate"
                    f" and go on from {path}, which is older, or delete it to begin anew"
                )
            done = step + 1
            log.add(losses, done, before + time.monotonic() - began, last=done == schedule.steps)
            if stopping or done == schedule.steps or time.monotonic() - saved > checkpoint_seconds:
                save(done)
                saved = time.monotonic()
            if stopping and done < schedule.steps:
                raise Stopped(f"{name} stopped after step {done}; the same line goes on from there")
    for each in learning:
        each.finish()
    if report and processes.is_main_process:
        figures = {k: round(v, 4) for k, v in report().items()}
        print(json.dumps({"network": name, "held_out": figures}), flush=True)
        write_whole(folder / REPORT, json.dumps(figures, indent=1) + "\n")
    processes.wait_for_everyone()
    return bool(processes.is_main_process)


def stage_folder(out: Path, name: str) -> Path:
    """Where a training in a run's folder keeps what it goes on from, and what it tells."""
    return out / "stages" / name


def gathered(x: Tensor) -> Tensor:
    """The samples (N B, ...) of all N processes, this one's (B, ...) among them; gradients flow back to each."""
    if PartialState().num_processes == 1:
        return x
    whole: Tensor = _Gathered.apply(x)  # type: ignore[no-untyped-call]
    return whole


class _Gathered(torch.autograd.Function):
    """Each process computes the same loss of all samples; `_Learning._average` divides by their number."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.count = len(x)
        parts = [torch.empty_like(x) for _ in range(torch.distributed.get_world_size())]
        torch.distributed.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous()
        torch.distributed.all_reduce(total)
        return total[torch.distributed.get_rank() * ctx.count :][: ctx.count]


class _Batches(data.Dataset[Any]):
    """What the losses take in each step, a pure function of its number; it can be sent to worker processes."""

    def __init__(self, prepared: Prepared | None, schedule: Schedule, count: int, rank: int, world: int) -> None:
        self.prepared, self.schedule, self.count, self.rank, self.world = prepared, schedule, count, rank, world

    def seed(self, step: int) -> int:
        """Of all randomness of a step in this process."""
        return (self.schedule.seed * 1_000_003 + step) * self.world + self.rank

    def __getitem__(self, step: int) -> Any:
        order = _shuffled(self.count, self.schedule.seed)
        rows = batch_indices(order, self.schedule.batch, step)[self.rank :: self.world]
        return self.prepared(rows, self.seed(step)) if self.prepared else rows

    def ahead(self, steps: range, workers: int, device: torch.device) -> data.DataLoader[Any]:
        """The batches of steps, in their order."""
        return data.DataLoader(
            self,
            batch_size=None,
            sampler=steps,
            num_workers=workers,
            collate_fn=_as_it_is,
            pin_memory=device.type == "cuda",
            multiprocessing_context="spawn" if workers else None,  # as every system can, whatever runs beside
        )


_shuffled = lru_cache(maxsize=8)(shuffled)  # its epochs are kept from step to step


def _as_it_is(batch: Any) -> Any:
    return batch


class _Learning:
    """A network in training: its optimiser, its average, and what of it is kept."""

    def __init__(self, name: str, model: nn.Module, losses: Loss, schedule: Schedule, precision: str) -> None:
        self.name, self.losses, self.schedule, self.precision = name, losses, schedule, precision
        self.model = laid_out(model, precision).train()
        device = next(self.model.parameters()).device
        plain_attention(self.model, device)
        self.named = {key: x for key, x in model.named_parameters() if x.requires_grad}
        self.parameters = list(self.named.values())
        self.optimiser = torch.optim.AdamW(
            self.parameters,
            lr=schedule.lr,
            weight_decay=schedule.weight_decay,
            betas=(0.9, 0.99),
            fused=device.type == "cuda",
        )
        self.ema = averages(self.parameters, schedule.ema)

    @property
    def averaged(self) -> int:
        """Steps that its average has seen."""
        return self.ema.optimization_step if self.ema else 0

    def step(
        self, step: int, batch: Any, generator: torch.Generator, processes: PartialState, stopping: bool
    ) -> tuple[dict[str, float], bool]:
        """One step of the optimiser; its losses, and whether any process was told to stop. Both are all processes'."""
        device = next(self.model.parameters()).device
        for group in self.optimiser.param_groups:
            group["lr"] = self.schedule.rate(step)
        self.optimiser.zero_grad(set_to_none=True)
        with computing(self.precision, device):
            losses = self.losses(batch, generator)
        torch.autograd.backward(losses["loss"])
        names = list(losses)
        told = torch.stack([*(losses[x].detach().float() for x in names), torch.tensor(float(stopping), device=device)])
        if processes.num_processes > 1:
            self._average(told)
        norm = nn.utils.clip_grad_norm_(self.parameters, self.schedule.clip)
        values = told.tolist()
        if torch.isfinite(norm):
            self.optimiser.step()
            if self.ema:
                self.ema.step(self.parameters)
        else:
            values[names.index("loss")] = math.nan  # of a gradient that is not finite, too
        prefix = "" if self.name == "model" else f"{self.name}/"
        return {prefix + key: value for key, value in zip(names, values[:-1], strict=True)}, values[-1] > 0

    def _average(self, told: Tensor) -> None:
        """Gradients, batch statistics and what is told, averaged over all processes in one go."""
        grads = [torch.zeros_like(x) if x.grad is None else x.grad for x in self.parameters]
        used = torch.tensor([float(x.grad is not None) for x in self.parameters], device=told.device)
        statistics = [x for x in self.model.buffers() if x.is_floating_point()]
        tensors = [*grads, used, *statistics, told]
        flat = torch.cat([x.detach().float().reshape(-1) for x in tensors])
        torch.distributed.all_reduce(flat)
        flat /= torch.distributed.get_world_size()
        for x, mean in zip(tensors, torch.split(flat, [x.numel() for x in tensors]), strict=True):
            x.copy_(mean.view(x.shape))
        for x, grad, share in zip(self.parameters, grads, used.tolist(), strict=True):
            x.grad = grad if share else None

    def state(self) -> dict[str, Tensor]:
        """All that going on takes, by name."""
        state = {f"weights/{key}": x for key, x in self.model.state_dict().items()}
        if self.ema:
            state |= {f"average/{key}": x for key, x in zip(self.named, self.ema.shadow_params, strict=True)}
        state |= {f"optimiser/{key}": x for key, x in optimiser_state(self.optimiser, self.named).items()}
        return {f"{self.name}/{key}": x for key, x in state.items()}

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor], about: Mapping[str, Any], path: Path) -> None:
        """Go on from what `state` gave, if there is any.

        Raises:
            TrainingError: it is another network's.
        """
        if not tensors:
            return
        found: dict[str, dict[str, Tensor]] = {"weights": {}, "average": {}, "optimiser": {}}
        for key, x in tensors.items():
            owner, kind, name = key.split("/", 2)
            if owner == self.name:
                found[kind][name] = x
        own = self.model.state_dict()
        kept = found["weights"]
        wrong = misfits(kept, own)
        if wrong or bool(self.ema) != bool(found["average"]):
            what = f"another {wrong[0]}" if wrong else "averages" if found["average"] else "no averages"
            raise TrainingError(f"{path}: has {what} than this network; delete it to begin anew, or give another --out")
        for key, x in own.items():
            x.copy_(kept[key])
        if self.ema:
            for key, x in zip(self.named, self.ema.shadow_params, strict=True):
                x.copy_(found["average"][key])
            self.ema.optimization_step = about["averaged"][self.name]
        restore_optimiser(self.optimiser, self.named, found["optimiser"])

    def finish(self) -> None:
        """Put the averaged weights in place, where there are some."""
        for x in self.parameters:
            x.requires_grad_(True)
        if self.ema:
            self.ema.copy_to(self.parameters)
        fused_attention(self.model)
        laid_out(self.model, "float32").eval()  # as files want it


class _Log:
    """The losses, smoothed, on the console and in a file of JSON lines."""

    def __init__(self, name: str, folder: Path, smooth: Mapping[str, float], step: int, writes: bool) -> None:
        self.name, self.folder, self.writes = name, folder, writes
        self.smooth = dict(smooth)
        if writes:
            cut(folder, step)  # what was logged after the checkpoint is done again

    def add(self, losses: Mapping[str, float], step: int, seconds: float, *, last: bool) -> None:
        """The losses of a step; of a skipped one, none."""
        if all(map(math.isfinite, losses.values())):
            for key, value in losses.items():
                self.smooth[key] = 0.98 * self.smooth.get(key, value) + 0.02 * value
        if self.writes and (step % LOG_EVERY == 0 or last):
            row = {"step": step, "seconds": round(seconds, 1), **{k: round(v, 5) for k, v in self.smooth.items()}}
            print(json.dumps({"network": self.name} | row), flush=True)
            append(self.folder, row)


def _found(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        return read_tensors(path), read_about(path)
    except FileNotFoundError:
        return {}, {}
    except DamagedError as error:
        raise TrainingError(f"{path}: is damaged ({error}); delete it to begin this network anew") from None


def _begin_alike(learning: Sequence[_Learning], processes: PartialState) -> None:
    """The weights of the first process in all."""
    if processes.num_processes == 1:
        return
    tensors = [x.detach() for each in learning for x in each.model.state_dict().values()]
    flat = torch.cat([x.float().reshape(-1) for x in tensors])
    torch.distributed.broadcast(flat, 0)
    for x, first in zip(tensors, torch.split(flat, [x.numel() for x in tensors]), strict=True):
        x.copy_(first.view(x.shape))


def _only(one: _Learning, learning: Sequence[_Learning]) -> None:
    """Gradients for this network alone: the others are what it looks through."""
    if len(learning) > 1:
        for each in learning:
            for x in each.parameters:
                x.requires_grad_(each is one)


def _named(losses: Mapping[str, float]) -> str:
    return ", ".join(f"{key} {value:.4g}" for key, value in losses.items())

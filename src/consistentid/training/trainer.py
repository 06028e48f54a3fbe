"""Training of the adapter on any base: noise loss and localisation loss (paper, section 3.4), on `accelerate`.

A step is a pure function of the recipe and its number, so a run that was stopped, however it was, equals one that was
not; and the batch is that of all processes together, so their number does not matter either.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, PartialState
from torch import Tensor, nn
from torch.utils.data import DataLoader

from consistentid.drawn.pools import open_pool
from consistentid.errors import InputError, TrainingError
from consistentid.files.claims import claimed
from consistentid.files.output import encode_png
from consistentid.files.writing import write_whole
from consistentid.presets.loading import text_projection
from consistentid.presets.read import FILE_NAME
from consistentid.training import checkpoints, log, validation
from consistentid.training.averages import averages
from consistentid.training.config import TrainConfig
from consistentid.training.examples import Batch, Example, Examples, Places
from consistentid.training.frozen import FrozenNetworks
from consistentid.training.model import AdapterOnBase, initial_name
from consistentid.training.parallel import check_parallel
from consistentid.training.precision import resolve_precision
from consistentid.training.run_preset import run_preset, write_base
from consistentid.training.sources import DatasetSource, DrawnSource, Source
from consistentid.training.state import optimiser_state, restore_optimiser, shared_like, whole
from consistentid.training.stopping import SKIPS, stop_asked
from consistentid.training.transport import packed, unpacked

NOTE = "run.json"

Say = Callable[[str], None]


@contextmanager
def claimed_run(run: Path) -> Iterator[None]:
    """Within the block the folder of a run is this process's, or that of the first of the processes that share it.

    Raises:
        InputError: it holds something else, or another process trains in it.
    """
    if int(os.environ.get("RANK", "0")):
        yield
        return
    begun = checkpoints.newest(run) is not None  # also by an older version, which left no note
    own = [path.name for path in run.iterdir()] if begun else ["cache"]
    with claimed(run, "training run", {}, note=NOTE, own=own):
        yield


_ONLY_DRAWN = {
    "exchange_share": "has no pictures with exchanged parts",
    "scene_weight": "does not tell what its pictures show",
    "company_share": "has no pictures of several people",
    "anonymous_caption": "has one caption a picture",
}
"""Options for drawn pictures -> why a data set cannot have them."""


def open_source(config: TrainConfig, data: Path | None, cache: Path) -> Source:
    """The pictures to learn from: those of a data set, or else the drawn ones that the recipe names.

    Raises:
        InputError: neither is given, or they cannot be read; or a data set is, and the recipe asks for what it lacks.
    """
    if data is not None:
        for name, lack in _ONLY_DRAWN.items():
            if getattr(config, name):
                raise InputError(f"{name}: a data set {lack}; set it to 0")
        return DatasetSource(data, config.people)
    if config.drawn is None:
        raise InputError("nothing to learn from: name a data set with --data, or drawn pictures in the recipe")
    groups = [open_pool(pool, cache) for pool in config.drawn_groups]
    exchanged = open_pool(config.drawn_exchanges, cache) if config.drawn_exchanges else None
    return DrawnSource(open_pool(config.drawn, cache), config.people, groups, exchanged)


class Trainer:
    """One training run in a folder.

    Args:
        config: the recipe.
        run: its folder; a run that is already there goes on.
        data: a data set's folder; None for the drawn pictures of the recipe.
        cache: folder of drawn pictures and of what frozen networks gave; by default in the run.
        device: "cpu" to use no accelerator; else the best there is is chosen by accelerate.
        say: told of progress, one line at a time.

    Raises:
        InputError: options that do not go together, or with this machine.
        TrainingError: the run was begun with other options.
    """

    def __init__(
        self,
        config: TrainConfig,
        run: Path,
        *,
        data: Path | None = None,
        cache: Path | None = None,
        device: str | None = None,
        say: Say = print,
    ) -> None:
        processes = PartialState(cpu=device == "cpu")
        self.say: Say = say if processes.is_main_process else lambda _: None
        before = checkpoints.told(run)
        self.about: dict[str, Any] = {"config": config.to_dict()}
        precision = resolve_precision(config.precision, processes.device, before=before.get("precision"), say=self.say)
        config = replace(config, precision=precision)
        self.config, self.run, self.seconds = config, run, float(before.get("seconds", 0.0))
        self.accelerator = accelerator = Accelerator(
            cpu=device == "cpu",
            mixed_precision="bf16" if config.precision == "bfloat16" else "no",
            # Where the base learns alone the adapter has no gradient.
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=bool(config.base_share))],
        )
        check_parallel(config, accelerator)
        run.mkdir(parents=True, exist_ok=True)
        cache = cache or run / "cache"
        with accelerator.main_process_first():  # who draws pictures, if they are not there yet
            self.source = open_source(config, data, cache)
        self.frozen = FrozenNetworks(config, cache, accelerator.device)
        self.module = AdapterOnBase(config, self.frozen)
        self.examples = Examples(config, self.source, self.frozen, self.module.cid.spec)
        names = {**self.frozen.names(), "init": initial_name(config, self.frozen)}
        self.about |= {"networks": names, "pictures": self.source.name(), "precision": precision}
        self._begun = self._with_change_kept()
        self.parameters = [x for x in self.module.parameters() if x.requires_grad]
        optimiser = _optimiser(config, self.parameters)
        self.model, self.optimiser = accelerator.prepare(self.module, optimiser)
        self.parameters = [x for x in self.model.parameters() if x.requires_grad]
        self.ema = averages(self.parameters, config.schedule.ema)
        self.step, self.skipped = 0, 0
        self.window: dict[str, list[float]] = {}
        self._people: list[Any] | None = None
        if (found := checkpoints.newest(run)) is not None:
            self._resume(found)

    # ------------------------------------------------------------------------------------------------------ the loop

    def train(self) -> bool:
        """Train to the last step, or until SIGTERM or SIGINT; then save. Return whether all steps are done.

        Raises:
            TrainingError: the loss was not finite several steps in a row.
            InputError: a checkpoint cannot be written.
        """
        config = self.config
        steps = config.schedule.steps
        if self.step >= steps:
            self.say(f"{self.run} has all its {steps} steps already")
            if self.accelerator.is_main_process and not (self.run / FILE_NAME).exists():  # killed while publishing
                self._publish()
            self.accelerator.wait_for_everyone()
            return True
        self.say(f"{len(self.source)} pictures, {sum(x.numel() for x in self.parameters) / 1e6:.1f} M trained weights")
        if self.step:
            self.say(f"going on after step {self.step}")
        shown = config.log.tensorboard and self.accelerator.is_main_process
        self.model.train()
        with stop_asked() as stop, log.board(self.run, self.step, shown) as board, self._batches() as batches:
            began, first, before = time.monotonic(), self.step, self.seconds
            while self.step < steps:
                self._one_step([next(batches) for _ in range(config.accumulate)])
                self.step += 1
                self.seconds = before + time.monotonic() - began
                if self.step % config.log.every == 0 or self.step == steps:
                    self._log(board, (time.monotonic() - began) / (self.step - first))
                asked = self._any(stop.is_set())
                if asked or self.step == steps or self.step % config.checkpoints.every == 0:
                    self._save()
                if config.validation.every and self.step % config.validation.every == 0:
                    self._validate()
                if asked and self.step < steps:
                    self.say(f"stopped after step {self.step}; the same line goes on from there")
                    return False
        return True

    @contextmanager
    def _batches(self) -> Iterator[Iterator[tuple[list[Example], Batch]]]:
        """The samples of this process's parts of all steps to come, and the batch of each on the device.

        Where workers prepare samples, a thread makes the next batch while the networks learn from one.
        """
        loader = iter(self._loader())

        def made() -> tuple[list[Example], Batch] | None:
            if (sent := next(loader, None)) is None:
                return None
            examples = unpacked(sent)
            return examples, self.examples.batch(examples).to(self.accelerator.device)

        if not self.config.workers:
            yield iter(made, None)
            return
        with ThreadPoolExecutor(1) as thread:
            waiting = deque(thread.submit(made) for _ in range(2))

            def ahead() -> Iterator[tuple[list[Example], Batch]]:
                while (batch := waiting.popleft().result()) is not None:
                    waiting.append(thread.submit(made))
                    yield batch

            yield ahead()

    def _loader(self) -> DataLoader[Any]:
        accelerator, workers = self.accelerator, self.config.workers
        places = Places(self.config, self.source, self.step, accelerator.process_index, accelerator.num_processes)
        return DataLoader(
            self.examples.samples,
            batch_sampler=places,
            num_workers=workers,
            collate_fn=packed,
            multiprocessing_context="spawn" if workers else None,  # as every system can, whatever runs beside
        )

    def _one_step(self, parts: Sequence[tuple[list[Example], Batch]]) -> None:
        """One optimiser step on this process's parts of the batch."""
        config, accelerator = self.config, self.accelerator
        for group in self.optimiser.param_groups:
            group["lr"] = config.schedule.rate(self.step)
        self.optimiser.zero_grad(set_to_none=True)
        self.module.progress = self.step / config.schedule.steps
        losses: list[Mapping[str, Tensor]] = []
        for number, (_, batch) in enumerate(parts, 1):
            with accelerator.no_sync(self.model) if number < len(parts) else nullcontext():
                losses.append(self.model(batch))
                accelerator.backward(losses[-1]["loss"].mean() / len(parts))
        norm = accelerator.clip_grad_norm_(self.parameters, config.schedule.clip)
        if norm is None or torch.isfinite(norm):
            self.skipped = 0
            self.optimiser.step()
            if self.ema:
                self.ema.step(self.parameters)
            for name in losses[0]:
                self.window.setdefault(name, []).append(
                    sum(x[name].detach().mean().item() for x in losses) / len(losses)
                )
            return
        self.optimiser.zero_grad(set_to_none=True)
        self.skipped += 1
        wrong = [
            example.key
            for (examples, _), each in zip(parts, losses, strict=True)
            for example, loss in zip(examples, each["loss"], strict=True)
            if not torch.isfinite(loss)
        ]
        blamed = f"the loss of {', '.join(wrong)} is not finite" if wrong else "the gradient is not finite"
        print(f"step {self.step + 1} is skipped: {blamed}", flush=True)  # by every process, of its own samples
        if self.skipped >= SKIPS:
            raise TrainingError(
                f"{blamed} at step {self.step + 1}, and {SKIPS} steps in a row were skipped; look at these pictures,"
                " or take a lower learning rate and go on from a checkpoint"
            )

    def _any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        if self.accelerator.num_processes == 1:
            return flag
        total = self.accelerator.reduce(torch.tensor(float(flag), device=self.accelerator.device))
        return bool(total)

    # ---------------------------------------------------------------------------------------------- saving, resuming

    def _save(self) -> None:
        # Whole tensors are put together by all processes, wherever their shards are.
        weights = {name: whole(x) for name, x in self._named.items()}
        shadow = {}
        if self.ema:
            shadow = {name: whole(x) for name, x in zip(self._named, self.ema.shadow_params, strict=True)}
        moments = {f"optimiser/{key}": x for key, x in optimiser_state(self.optimiser.optimizer, self._named).items()}
        if self.accelerator.is_main_process:
            self._write(weights, shadow, moments)
        self.accelerator.wait_for_everyone()

    @property
    def _named(self) -> dict[str, nn.Parameter]:
        """The trained parameters by name, in the order of ``parameters``."""
        return {name: x for name, x in self.module.named_parameters() if x.requires_grad}

    def _with_change_kept(self) -> dict[str, tuple[Tensor, float]]:
        """The initial weights of which something stays, by name, and the share of the change that is published.

        Raises:
            InputError: the recipe names weights that do not learn, or that began as noise.
        """
        asked, names, named = self.config.change_kept, self.module.names, self._named
        for part in asked:
            if not any(part in name for name in names.values()):
                raise InputError(f"change_kept: no weight that learns has {part!r} in its name")
        begun = {}
        for name, known in names.items():
            share = min((share for part, share in asked.items() if part in known), default=1.0)
            if share == 1:
                continue
            if self.config.init is None and known.startswith("adapter."):
                raise InputError("change_kept needs init: the weights that stay where the change does not")
            begun[name] = named[name].detach().cpu().clone(), share
        return begun

    def _published(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What is published of trained weights, by name."""
        found = dict(weights)
        for name, (begun, share) in self._begun.items():
            found[name] = torch.lerp(begun.to(found[name]), found[name], share)
        return found

    def _write(self, weights: dict[str, Tensor], shadow: dict[str, Tensor], moments: dict[str, Tensor]) -> None:
        module, config = self.module, self.config
        shown = {module.names[name]: x for name, x in self._published(shadow or weights).items()}
        learnt = {name: x for name, x in shown.items() if name.startswith("adapter.")}
        adapter = module.frozen_adapter | {name.removeprefix("adapter."): x for name, x in learnt.items()}
        unet = {name.removeprefix("unet."): x for name, x in shown.items() if name.startswith("unet.")}
        state = {f"weights/{name}": x for name, x in weights.items()}
        state |= {f"average/{name}": x for name, x in shadow.items()}
        state |= moments
        seen = self.step * config.schedule.batch
        projection = text_projection(self.frozen.preset.base)
        folder = checkpoints.save(
            self.run,
            self.step,
            spec=module.cid.spec,
            adapter=adapter,
            base=partial(write_base, self.frozen.pipe, module.unet_config, unet, projection) if unet else None,
            preset=self._preset(self.run / f"checkpoint-{self.step}"),
            state=state,
            about=self.about
            | {
                "data": {"samples": seen, "epoch": seen // len(self.source), "position": seen % len(self.source)},
                "processes": self.accelerator.num_processes,
                "seconds": round(self.seconds, 1),
                "skipped": self.skipped,
                "averaged": self.ema.optimization_step if self.ema else 0,
                "window": self.window,
            },
            keep=config.checkpoints.keep,
        )
        if self.step == config.schedule.steps:
            self._publish()
        self.say(f"saved {folder}")

    def _publish(self) -> None:
        """The finished weights in the run's folder, and a preset that makes pictures with them."""
        folder = checkpoints.newest(self.run)
        assert folder
        checkpoints.publish(self.run, folder, self._preset(self.run))

    def _preset(self, folder: Path) -> str:
        """YAML of a preset in that folder: the recipe's, with the networks that are trained."""
        return run_preset(folder, self.run, self.config, self.frozen.preset)

    @torch.no_grad()
    def _resume(self, folder: Path) -> None:
        defaults = TrainConfig(self.config.schedule, self.config.size).to_dict()
        state, about = checkpoints.load(folder, self.about, unsaid=defaults)
        named = self._named
        for name, parameter in named.items():
            parameter.copy_(shared_like(parameter, state[f"weights/{name}"]))
        if self.ema:
            for name, shadow in zip(named, self.ema.shadow_params, strict=True):
                shadow.copy_(shared_like(shadow, state[f"average/{name}"]))
            self.ema.optimization_step = about["averaged"]
        moments = {key.partition("/")[2]: x for key, x in state.items() if key.startswith("optimiser/")}
        restore_optimiser(self.optimiser.optimizer, named, moments)
        self.step, self.skipped, self.window = about["step"], about["skipped"], about["window"]
        if self.accelerator.is_main_process:
            log.cut(self.run, self.step)

    # ------------------------------------------------------------------------------------------------- what it tells

    def _log(self, board: Any, seconds: float) -> None:
        names = sorted(self.window)
        means = torch.tensor([sum(self.window[x]) / len(self.window[x]) for x in names], device=self.accelerator.device)
        means = self.accelerator.reduce(means, "mean")
        self.window = {}
        if not self.accelerator.is_main_process:
            return
        losses = dict(zip(names, (round(float(x), 6) for x in means), strict=True))
        schedule = self.config.schedule
        row = {"step": self.step, "rate": schedule.rate(self.step - 1), "seconds_a_step": round(seconds, 4)}
        log.append(self.run, row | losses)
        for name, value in losses.items():
            if board is not None:
                board.add_scalar(name, value, self.step)
        self.say(log.line(self.step, schedule.steps, losses, seconds))

    def _validate(self) -> None:
        """A sheet of portraits with the weights as they are published; nothing of the training changes by it."""
        if self.accelerator.is_main_process:
            options = self.config.validation
            if self._people is None:
                self._people = validation.identities(options, self.frozen, self.module)
            self.model.eval()
            learnt = {name: x.detach().cpu().clone() for name, x in self._named.items()}  # a GPU has no room to spare
            averaged = dict(zip(learnt, self.ema.shadow_params, strict=True)) if self.ema else learnt
            self._put(self._published(averaged))
            try:
                with self.accelerator.autocast():
                    shown = validation.sheet(options, self._people, self.frozen, self.module)
            finally:
                self._put(learnt)
                self.model.train()
            write_whole(
                validation.validation_path(self.run, self.step),
                encode_png(shown, {"step": self.step, "prompts": list(options.prompts)}),
            )
        self.accelerator.wait_for_everyone()

    @torch.no_grad()
    def _put(self, weights: Mapping[str, Tensor]) -> None:
        """Other values into the trained parameters."""
        for name, parameter in self._named.items():
            parameter.copy_(weights[name])


def _optimiser(config: TrainConfig, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
    kind: Any = torch.optim.AdamW
    if config.optimiser == "adamw8bit":
        try:
            kind = import_module("bitsandbytes").optim.AdamW8bit
        except ImportError:
            raise InputError(
                "optimiser adamw8bit needs another package; run 'pip install consistentid[adam8bit]', or choose adamw"
            ) from None
    schedule = config.schedule
    optimiser: torch.optim.Optimizer = kind(
        parameters, lr=schedule.lr, weight_decay=schedule.weight_decay, betas=(0.9, 0.99)
    )
    return optimiser

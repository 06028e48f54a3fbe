"""Training of the adapter on any base: noise loss and localisation loss (paper, section 3.4), on `accelerate`.

A step is a pure function of the recipe and its number, so a run that was stopped, however it was, equals one that was
not; and the batch is that of all processes together, so their number does not matter either.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import yaml
from accelerate import Accelerator, DistributedDataParallelKwargs, DistributedType
from accelerate.utils import parse_flag_from_env
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils.data import DataLoader

from consistentid.drawn.pools import PoolSpec, open_pool
from consistentid.errors import InputError, TrainingError
from consistentid.files.claims import claimed
from consistentid.files.config import build
from consistentid.files.output import encode_png
from consistentid.files.writing import replacing_folder, write_whole
from consistentid.presets.preset import Preset
from consistentid.presets.read import FILE_NAME
from consistentid.training import checkpoints, validation
from consistentid.training.config import TrainConfig
from consistentid.training.examples import Example, Examples, Places
from consistentid.training.frozen import FrozenNetworks
from consistentid.training.model import AdapterOnBase
from consistentid.training.sources import DatasetSource, DrawnSource, Source

SKIPS: int = 3
"""Steps in a row without a finite loss after which a training stops."""

LOG = "log.jsonl"
NOTE = "run.json"

_PARALLEL = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU, DistributedType.FSDP)

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


def open_source(config: TrainConfig, data: Path | None, cache: Path) -> Source:
    """The pictures to learn from: those of a data set, or else the drawn ones that the recipe names.

    Raises:
        InputError: neither is given, or they cannot be read.
    """
    if data is not None:
        return DatasetSource(data, config.people)
    if config.pictures is None:
        raise InputError("nothing to learn from: name a data set with --data, or drawn pictures in the recipe")
    spec = build(PoolSpec, {"size": config.size, **config.pictures}, "the recipe", "pictures.train")
    return DrawnSource(open_pool(spec, cache), config.people)


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
        self.config, self.run = config, run
        self.accelerator = accelerator = Accelerator(
            cpu=device == "cpu",
            mixed_precision="bf16" if config.precision == "bfloat16" else "no",
            # Where the base learns alone the adapter has no gradient.
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=bool(config.base_share))],
        )
        self.say: Say = say if accelerator.is_main_process else lambda _: None
        _check_parallel(config, accelerator)
        run.mkdir(parents=True, exist_ok=True)
        cache = cache or run / "cache"
        with accelerator.main_process_first():  # who draws pictures, if they are not there yet
            self.source = open_source(config, data, cache)
        self.frozen = FrozenNetworks(config, cache, accelerator.device)
        self.module = AdapterOnBase(config, self.frozen)
        self.examples = Examples(config, self.source, self.frozen, self.module.cid.spec)
        self.about = {"config": config.to_dict() | {"data": None if data is None else str(data.resolve())}}
        self.parameters = [x for x in self.module.parameters() if x.requires_grad]
        optimiser = _optimiser(config, self.parameters)
        self.model, self.optimiser = accelerator.prepare(self.module, optimiser)
        self.parameters = [x for x in self.model.parameters() if x.requires_grad]
        decay = config.schedule.ema
        self.ema = EMAModel(self.parameters, decay=decay, use_ema_warmup=True, power=0.75) if decay else None
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
            return True
        self.say(f"{len(self.source)} pictures, {sum(x.numel() for x in self.parameters) / 1e6:.1f} M trained weights")
        if self.step:
            self.say(f"going on after step {self.step}")
        loader = self._loader()
        self.model.train()
        with _stop_asked() as stop, self._board() as board:
            began, first = time.monotonic(), self.step
            while self.step < steps:
                self._one_step([next(loader) for _ in range(config.accumulate)])
                self.step += 1
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

    def _loader(self) -> Iterator[list[Example]]:
        accelerator, workers = self.accelerator, self.config.workers
        places = Places(self.config, self.source, self.step, accelerator.process_index, accelerator.num_processes)
        return iter(
            DataLoader(
                self.examples,
                batch_sampler=places,
                num_workers=workers,
                collate_fn=list,
                multiprocessing_context="fork" if workers else None,  # memory-mapped pictures are shared, not copied
            )
        )

    def _one_step(self, parts: Sequence[list[Example]]) -> None:
        """One optimiser step on this process's parts of the batch."""
        config, accelerator = self.config, self.accelerator
        for group in self.optimiser.param_groups:
            group["lr"] = config.schedule.rate(self.step)
        self.optimiser.zero_grad(set_to_none=True)
        losses: list[Mapping[str, Tensor]] = []
        for number, examples in enumerate(parts, 1):
            batch = self.examples.batch(examples).to(accelerator.device)
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
            for examples, each in zip(parts, losses, strict=True)
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
        weights = {name: _whole(x) for name, x in self._named.items()}
        shadow = {}
        if self.ema:
            shadow = {name: _whole(x) for name, x in zip(self._named, self.ema.shadow_params, strict=True)}
        moments = {
            f"optimiser/{name}/{what}": _whole(torch.as_tensor(x))
            for name, parameter in self._named.items()
            for what, x in self.optimiser.optimizer.state.get(parameter, {}).items()
        }
        if self.accelerator.is_main_process:
            self._write(weights, shadow, moments)
        self.accelerator.wait_for_everyone()

    @property
    def _named(self) -> dict[str, nn.Parameter]:
        """The trained parameters by name, in the order of ``parameters``."""
        return {name: x for name, x in self.module.named_parameters() if x.requires_grad}

    def _write(self, weights: dict[str, Tensor], shadow: dict[str, Tensor], moments: dict[str, Tensor]) -> None:
        module, config = self.module, self.config
        shown = {module.names[name]: x for name, x in (shadow or weights).items()}
        learnt = {name: x for name, x in shown.items() if name.startswith("adapter.")}
        adapter = module.frozen_adapter | {name.removeprefix("adapter."): x for name, x in learnt.items()}
        unet = {name.removeprefix("unet."): x for name, x in shown.items() if name.startswith("unet.")}
        state = {f"weights/{name}": x for name, x in weights.items()}
        state |= {f"average/{name}": x for name, x in shadow.items()}
        state |= moments
        seen = self.step * config.schedule.batch
        folder = checkpoints.save(
            self.run,
            self.step,
            spec=module.cid.spec,
            adapter=adapter,
            unet=(module.unet_config, unet) if unet else None,
            state=state,
            about=self.about
            | {
                "data": {"samples": seen, "epoch": seen // len(self.source), "position": seen % len(self.source)},
                "processes": self.accelerator.num_processes,
                "skipped": self.skipped,
                "averaged": self.ema.optimization_step if self.ema else 0,
                "window": self.window,
            },
            keep=config.checkpoints.keep,
        )
        if self.step == config.schedule.steps:
            self._publish(folder, unet)
        self.say(f"saved {folder}")

    def _publish(self, folder: Path, unet: Mapping[str, Tensor]) -> None:
        """The finished weights in the run's folder, and a preset that makes pictures with them."""
        checkpoints.publish(self.run, folder)
        networks: dict[str, Any] = {"adapter": "./"}
        if unet:
            networks["base"] = "./base"
            from diffusers import UNet2DConditionModel

            trained = UNet2DConditionModel.from_pretrained(folder / "unet", dtype=torch.float16)
            pipe = self.frozen.pipe
            kept = {name: part for name, part in pipe.components.items() if name != "unet"}
            whole = type(pipe)(**kept, unet=trained)
            dtypes = {name: x.dtype for name, x in kept.items() if isinstance(x, nn.Module)}
            whole.to(dtype=torch.float16)
            with replacing_folder(self.run / "base") as partial:
                whole.save_pretrained(partial)
            for name, dtype in dtypes.items():
                kept[name].to(dtype)
        write_whole(
            self.run / FILE_NAME, yaml.safe_dump(preset_content(self.frozen.preset) | networks, sort_keys=False)
        )

    @torch.no_grad()
    def _resume(self, folder: Path) -> None:
        state, about = checkpoints.load(folder, self.about["config"])
        named = self._named
        for name, parameter in named.items():
            parameter.copy_(_shared_like(parameter, state[f"weights/{name}"]))
        if self.ema:
            for name, shadow in zip(named, self.ema.shadow_params, strict=True):
                shadow.copy_(_shared_like(shadow, state[f"average/{name}"]))
            self.ema.optimization_step = about["averaged"]
        for key, value in state.items():
            kind, name, *rest = key.split("/")
            if kind == "optimiser":
                self.optimiser.optimizer.state[named[name]][rest[0]] = _moment(named[name], value)
        self.step, self.skipped, self.window = about["step"], about["skipped"], about["window"]
        if self.accelerator.is_main_process:
            _cut_log(self.run / LOG, self.step)

    # ------------------------------------------------------------------------------------------------- what it tells

    def _log(self, board: Any, seconds: float) -> None:
        names = sorted(self.window)
        means = torch.tensor([sum(self.window[x]) / len(self.window[x]) for x in names], device=self.accelerator.device)
        means = self.accelerator.reduce(means, "mean")
        self.window = {}
        if not self.accelerator.is_main_process:
            return
        row = {"step": self.step, "rate": self.config.schedule.rate(self.step - 1), "seconds_a_step": round(seconds, 4)}
        losses = dict(zip(names, (round(float(x), 6) for x in means), strict=True))
        try:
            with (self.run / LOG).open("a") as file:
                file.write(json.dumps(row | losses) + "\n")
        except OSError as error:
            raise InputError(
                f"{self.run / LOG}: cannot be written ({error.strerror}); the last checkpoint is whole,"
                " and the same line goes on from there"
            ) from error
        for name, value in losses.items():
            if board is not None:
                board.add_scalar(name, value, self.step)
        left = (self.config.schedule.steps - self.step) * seconds
        told = ", ".join(f"{name} {value:.4f}" for name, value in losses.items() if name != "loss")
        self.say(
            f"step {self.step} of {self.config.schedule.steps}: {told}, {seconds:.2f} s a step, {_span(left)} left"
        )

    @contextmanager
    def _board(self) -> Iterator[Any]:
        if not (self.config.log.tensorboard and self.accelerator.is_main_process):
            yield None
            return
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise InputError(
                "log.tensorboard needs another package; run 'pip install consistentid[train]', or leave it out"
            ) from None
        with SummaryWriter(str(self.run / "tensorboard"), purge_step=self.step) as board:
            yield board

    def _validate(self) -> None:
        """A sheet of portraits with the averaged weights; nothing of the training changes by it."""
        if self.accelerator.is_main_process:
            options = self.config.validation
            if self._people is None:
                self._people = validation.identities(options, self.frozen, self.module)
            self.model.eval()
            if self.ema:
                self.ema.store(self.parameters)
                self.ema.copy_to(self.parameters)
            try:
                with self.accelerator.autocast():
                    shown = validation.sheet(options, self._people, self.frozen, self.module)
            finally:
                if self.ema:
                    self.ema.restore(self.parameters)
                self.model.train()
            write_whole(
                validation.validation_path(self.run, self.step),
                encode_png(shown, {"step": self.step, "prompts": list(options.prompts)}),
            )
        self.accelerator.wait_for_everyone()


def preset_content(preset: Preset) -> dict[str, Any]:
    """A preset as its YAML file would have it, with absolute paths."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items() if item not in (None, "", (), {})}
        if isinstance(value, list | tuple):
            return [plain(item) for item in value]
        return str(value) if isinstance(value, Path) else value

    content: dict[str, Any] = plain(asdict(preset))
    return {name: value for name, value in content.items() if name not in ("name", "about")}


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


def _check_parallel(config: TrainConfig, accelerator: Accelerator) -> None:
    shares = accelerator.num_processes * config.accumulate
    if config.schedule.batch % shares:
        raise InputError(
            f"a batch of {config.schedule.batch} cannot be shared by {accelerator.num_processes} processes in"
            f" {config.accumulate} parts each; make schedule.batch a multiple of {shares}"
        )
    if parse_flag_from_env("ACCELERATE_USE_FSDP") and accelerator.distributed_type != DistributedType.FSDP:
        raise InputError("accelerate shards a model among several GPUs only; leave out --use_fsdp")
    plugin = getattr(accelerator.state, "fsdp_plugin", None)
    if accelerator.distributed_type not in _PARALLEL or (plugin and plugin.fsdp_version != 2):
        raise InputError(
            f"training is not made for {accelerator.distributed_type.value}; use torchrun, or FSDP with fsdp_version 2"
        )
    if plugin and (config.validation.every or config.base_share):
        raise InputError("sharded training goes without validation.every and base_share; set them to 0")


def _whole(x: Tensor) -> Tensor:
    """A tensor that may be shared among processes, as one."""
    return x.full_tensor() if isinstance(x, DTensor) else x


def _shared_like(other: Tensor, x: Tensor) -> Tensor:
    """A whole tensor, shared among processes as another is, and on its device."""
    if isinstance(other, DTensor):
        return distribute_tensor(x.to(other.device), other.device_mesh, other.placements)
    return x.to(other.device)


def _moment(parameter: Tensor, value: Tensor) -> Tensor | float:
    """What an optimiser kept of a parameter, as it had it: 8-bit ones count steps without a tensor."""
    if value.shape == parameter.shape:
        return _shared_like(parameter, value)
    if value.ndim == 0:
        return value if value.is_floating_point() else value.item()
    return value.to(parameter.device)


@contextmanager
def _stop_asked() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set within the block; a second SIGINT interrupts as usual."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def ask(number: int, _frame: FrameType | None) -> None:
        if event.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        event.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _cut_log(path: Path, step: int) -> None:
    """Leave out what was logged after a step, for it will be done again."""
    if path.exists():
        lines = [
            line for line in path.read_text().splitlines() if line.endswith("}") and json.loads(line)["step"] <= step
        ]
        write_whole(path, "".join(f"{line}\n" for line in lines))


def _span(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {rest} s"

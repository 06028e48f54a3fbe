"""Training of the adapter on any base: noise loss and localisation loss (paper, section 3.4), on `accelerate`.

A step is a pure function of the recipe and its number, so a run that was stopped, however it was, equals one that was
not; and the batch is that of all processes together, so their number does not matter either.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import asdict, is_dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import Accelerator, DistributedDataParallelKwargs, DistributedType, PartialState
from accelerate.utils import parse_flag_from_env
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.utils.data import DataLoader

from consistentid.drawn.pools import PoolSpec, open_pool
from consistentid.errors import InputError, TrainingError
from consistentid.files.claims import claimed
from consistentid.files.config import build
from consistentid.files.output import encode_png
from consistentid.files.reading import read_bytes
from consistentid.files.writing import write_whole
from consistentid.presets.read import FILE_NAME, preset_names
from consistentid.training import checkpoints, validation
from consistentid.training.config import TrainConfig
from consistentid.training.examples import Example, Examples, Places
from consistentid.training.frozen import FrozenNetworks
from consistentid.training.model import AdapterOnBase, initial_name
from consistentid.training.precision import resolve_precision
from consistentid.training.sources import DatasetSource, DrawnSource, Source
from consistentid.training.state import optimiser_state, restore_optimiser, shared_like, whole
from consistentid.training.stopping import SKIPS, stop_asked

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
        _check_parallel(config, accelerator)
        run.mkdir(parents=True, exist_ok=True)
        cache = cache or run / "cache"
        with accelerator.main_process_first():  # who draws pictures, if they are not there yet
            self.source = open_source(config, data, cache)
        self.frozen = FrozenNetworks(config, cache, accelerator.device)
        self.module = AdapterOnBase(config, self.frozen)
        self.examples = Examples(config, self.source, self.frozen, self.module.cid.spec)
        names = {**self.frozen.names(), "init": initial_name(config, self.frozen)}
        self.about |= {"networks": names, "pictures": self.source.name(), "precision": precision}
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
            if self.accelerator.is_main_process and not (self.run / FILE_NAME).exists():  # killed while publishing
                self._publish()
            self.accelerator.wait_for_everyone()
            return True
        self.say(f"{len(self.source)} pictures, {sum(x.numel() for x in self.parameters) / 1e6:.1f} M trained weights")
        if self.step:
            self.say(f"going on after step {self.step}")
        loader = iter(self._loader())
        self.model.train()
        with stop_asked() as stop, self._board() as board:
            began, first, before = time.monotonic(), self.step, self.seconds
            while self.step < steps:
                self._one_step([next(loader) for _ in range(config.accumulate)])
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

    def _loader(self) -> DataLoader[Example]:
        accelerator, workers = self.accelerator, self.config.workers
        places = Places(self.config, self.source, self.step, accelerator.process_index, accelerator.num_processes)
        return DataLoader(
            self.examples.samples,
            batch_sampler=places,
            num_workers=workers,
            collate_fn=list,
            multiprocessing_context="spawn" if workers else None,  # as every system can, whatever runs beside
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
            base=partial(self._write_base, unet) if unet else None,
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

    def _write_base(self, unet: Mapping[str, Tensor], folder: Path) -> None:
        """The base with the trained UNet, in half precision; the networks in training stay as they are."""
        from diffusers import UNet2DConditionModel

        trained = UNet2DConditionModel.from_config(json.loads(self.module.unet_config))
        trained.load_state_dict(unet)
        pipe = self.frozen.pipe
        kept = {name: part for name, part in pipe.components.items() if name != "unet"}
        copies = {name: deepcopy(part) if isinstance(part, nn.Module) else part for name, part in kept.items()}
        type(pipe)(**copies, unet=trained).to(dtype=torch.float16).save_pretrained(folder)

    def _publish(self) -> None:
        """The finished weights in the run's folder, and a preset that makes pictures with them."""
        folder = checkpoints.newest(self.run)
        assert folder
        checkpoints.publish(self.run, folder, self._preset(self.run))

    def _preset(self, folder: Path) -> str:
        """YAML of a preset in that folder: the recipe's, with the networks that are trained."""
        config, preset = self.config, self.frozen.preset
        named = config.preset in preset_names()
        tree = self.run.resolve().parent  # what lies here moves along
        content: dict[str, Any] = {"extends": config.preset if named else _seen_from(folder, Path(config.preset), tree)}
        for name in config.networks:
            content[name] = _plain(getattr(preset, name), folder, tree)
        content["adapter"] = "./"
        if "unet" in config.trained:
            content["base"] = f"./{checkpoints.BASE}"
        return yaml.safe_dump(content, sort_keys=False)

    @torch.no_grad()
    def _resume(self, folder: Path) -> None:
        state, about = checkpoints.load(folder, self.about)
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


def _plain(value: Any, folder: Path, tree: Path) -> Any:
    """A network of a preset, or another of its values, as the YAML file in a folder has it."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, dict):
        return {key: _plain(item, folder, tree) for key, item in value.items() if item not in (None, "", 0, (), {})}
    if isinstance(value, list | tuple):
        return [_plain(item, folder, tree) for item in value]
    return _seen_from(folder, value, tree) if isinstance(value, Path) else value


def _seen_from(folder: Path, path: Path, tree: Path) -> str:
    """A path relative to a folder if it lies in a tree that moves as a whole, else absolute."""
    path = path.resolve()
    if not path.is_relative_to(tree):
        return str(path)
    return Path(os.path.relpath(path, folder.resolve())).as_posix()


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


def _cut_log(path: Path, step: int) -> None:
    """Leave out what was logged after a step, for it will be done again."""
    if path.exists():
        lines = read_bytes(path, what="log").decode(errors="replace").splitlines()
        write_whole(path, "".join(f"{line}\n" for line in lines if _step_of(line) <= step))


def _step_of(line: str) -> float:
    """The step that a line of the log tells of; of half a line, as a kill leaves it, none that there is."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, LookupError, TypeError):
        return math.inf


def _span(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {rest} s"

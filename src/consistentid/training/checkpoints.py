"""Checkpoints of a run: folders that explain themselves, that pipelines can load, and from which training goes on.

```
RUN/checkpoint-500/
├── config.json, model.safetensors   the adapter, as `ConsistentID.from_pretrained` reads it
├── base/                            the base, if its UNet is trained along
├── preset.yaml                      consistentid generate --preset RUN/checkpoint-500
├── state.safetensors                trained weights in float32, their averages, the optimiser
└── training.json                    step, position in the data, recipe, versions, and the SHA-256 of the other files
```
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from consistentid.adapter import store
from consistentid.adapter.spec import AdapterSpec
from consistentid.errors import InputError, TrainingError
from consistentid.files.config import Between, build
from consistentid.files.output import encode_json, versions
from consistentid.files.reading import check_file, read_json
from consistentid.files.weights import sha256
from consistentid.files.writing import UNFINISHED, replacing, replacing_folder, write_whole
from consistentid.presets.read import FILE_NAME


@dataclass(frozen=True)
class _About:
    """What `training.json` says; those of old say less."""

    step: Annotated[int, Between(0)]
    config: Mapping[str, Any]
    networks: Mapping[str, Any] = field(default_factory=dict)
    pictures: str | None = None
    precision: str = ""
    data: Mapping[str, int] = field(default_factory=dict)
    processes: int = 1
    seconds: Annotated[float, Between(0)] = 0.0
    skipped: Annotated[int, Between(0)] = 0
    averaged: Annotated[int, Between(0)] = 0
    window: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    sha256: Mapping[str, str] = field(default_factory=dict)


STATE: Final = "state.safetensors"
ABOUT: Final = "training.json"

BASE: Final = "base"

BY_CONTENT: Final = (
    "preset", "networks", "init", "identity_recognisers", "latent_reader", "distilled_recogniser", "data",
)  # fmt: skip
"""Options that are compared by what lies at their paths: a run, its data and its networks may move."""

FREE_TO_CHANGE: Final = ("accumulate", "cache", "checkpoints", "log", "validation", "workers", "gradient_checkpointing")
"""Options that a run may go on with otherwise than it began: they change what is written, not what is learnt."""


def newest(run: Path) -> Path | None:
    """The folder of the last checkpoint of a run, or None."""
    found = _all(run)
    return found[-1] if found else None


def _all(run: Path) -> list[Path]:
    """The folders of the checkpoints of a run, by their steps."""
    steps = {path: path.name.removeprefix("checkpoint-") for path in run.glob("checkpoint-*")}
    return sorted((path for path, step in steps.items() if step.isdecimal()), key=lambda path: int(steps[path]))


def save(
    run: Path,
    step: int,
    *,
    spec: AdapterSpec,
    adapter: Mapping[str, Tensor],
    base: Callable[[Path], None] | None,
    preset: str,
    state: Mapping[str, Tensor],
    about: Mapping[str, Any],
    keep: int,
) -> Path:
    """Write a checkpoint, whole or not at all, and remove the oldest.

    Args:
        run: folder of the run.
        step: steps done.
        spec, adapter: as `ConsistentID.from_pretrained` shall read them; written in half precision.
        base: writes the base to a folder, if it is trained along.
        preset: YAML of a preset that makes pictures with these.
        state: whatever training needs to go on.
        about: JSON, to which step and versions are added.
        keep: how many checkpoints stay.

    Raises:
        InputError: the disk is full or the folder cannot be written to; the checkpoints before are as they were.
    """
    final = run / f"checkpoint-{step}"
    try:
        with replacing_folder(final, durable=True) as partial:
            store.write_folder(partial, spec, {name: x.half() for name, x in adapter.items()})
            if base is not None:
                base(partial / BASE)
            write_whole(partial / FILE_NAME, preset)
            save_file({name: x.detach().cpu().contiguous() for name, x in state.items()}, partial / STATE)
            sums = {file: sha256(partial / file) for file in _files(partial)}
            content = {"step": step, **about, "versions": versions(), "sha256": sums}
            write_whole(partial / ABOUT, encode_json(content))
        for old in _all(run)[:-keep]:
            hidden = old.replace(old.with_name(f"{UNFINISHED}{old.name}"))  # never a checkpoint that is half there
            shutil.rmtree(hidden)
    except (OSError, InputError) as error:
        raise InputError(f"{error}; the checkpoint before it is whole, and the same line goes on from there") from error
    return final


def load(
    folder: Path, begun: Mapping[str, Any], unsaid: Mapping[str, Any] | None = None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `save` was given as ``state`` and ``about``.

    Args:
        folder: of the checkpoint.
        begun: "config", "networks" and "pictures" of the run that wants to go on.
        unsaid: what options were of which a checkpoint says nothing, because it is older than they are.

    Raises:
        TrainingError: the checkpoint is damaged, or was made with other options, networks or pictures; they are named.
    """
    try:
        about = _read_about(folder)
        # Zeros where a power cut lost a block are whole tensors to safetensors; checkpoints of old have no sums.
        for name, digest in about.get("sha256", {}).items():
            if sha256(check_file(folder / name)) != digest:
                raise InputError(f"{name} is not as it was written")
        state = load_file(folder / STATE)
    except (OSError, ValueError, SafetensorError) as error:
        raise _damaged(folder, error) from error
    was = {**(unsaid or {}), **about["config"]}
    told = [
        _difference(was, begun["config"], name)
        for name in begun["config"]
        if name not in (*FREE_TO_CHANGE, *BY_CONTENT) and was.get(name) != begun["config"][name]
    ]
    # Checkpoints of old do not say which networks and pictures they are of.
    then, now = (x.get("networks", {}) | {"pictures": x.get("pictures")} for x in (about, begun))
    told += [_difference(then, now, name) for name in now if then.get(name) is not None and then[name] != now[name]]
    if told:
        raise TrainingError(
            f"{folder.parent} was begun with other options: {', '.join(told)}; give the same, or another --out"
        )
    return state, about


def told(run: Path) -> dict[str, Any]:
    """What the last checkpoint of a run says of itself, such as "seconds" and "precision"; nothing without one.

    Raises:
        TrainingError: it is damaged.
    """
    found = newest(run)
    if found is None or not (found / ABOUT).exists():
        return {}
    try:
        return _read_about(found)
    except InputError as error:
        raise _damaged(found, error) from None


def _read_about(folder: Path) -> dict[str, Any]:
    about: dict[str, Any] = read_json(folder / ABOUT, kind=dict)
    build(_About, about, str(folder / ABOUT))
    return {"skipped": 0, "averaged": 0, "window": {}} | about


def _damaged(folder: Path, error: Exception) -> TrainingError:
    return TrainingError(f"{folder}: is damaged ({error}); remove it to go on from the one before")


def publish(run: Path, folder: Path, preset: str) -> None:
    """Make a checkpoint's networks those of the run's folder, without taking up space twice where links are possible.

    Args:
        run: folder of the run.
        folder: of the checkpoint.
        preset: YAML of the preset, written last: where it is, all is.

    Raises:
        InputError: the run's folder cannot be written to.
    """
    for name in (store.WEIGHTS_NAME, store.CONFIG_NAME):
        with replacing(run / name) as temporary:
            temporary.unlink()
            _link(folder / name, temporary)
    if (folder / BASE).exists():
        with replacing_folder(run / BASE) as whole:
            shutil.copytree(folder / BASE, whole, copy_function=_link, dirs_exist_ok=True)
    write_whole(run / FILE_NAME, preset)


def _link(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copyfile(source, target)


def _files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _difference(then: Mapping[str, Any], now: Mapping[str, Any], name: str) -> str:
    return f"{name} {then.get(name)!r} then, {now[name]!r} now"

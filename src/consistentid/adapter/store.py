"""Adapter weights in files, folders and on the hub: found, read, written."""

from __future__ import annotations

import json
import os
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from consistentid.adapter.layouts import REMEDY, check, released_spec, to_ours
from consistentid.adapter.spec import AdapterSpec
from consistentid.errors import CheckpointError
from consistentid.files.documents import MAX_CONFIG_BYTES
from consistentid.files.reading import check_file, parse_json, read_json
from consistentid.files.weights import check_finite, listed
from consistentid.files.writing import replacing, write_whole

WEIGHTS_NAME = "model.safetensors"
CONFIG_NAME = "config.json"


class Checkpoint(NamedTuple):
    """Contents of a weights file.

    Attributes:
        spec: sizes and habits.
        tensors: flat state in our layout.
        guessed: whether the habits are guessed from a released layout's sizes; our own files say theirs.
    """

    spec: AdapterSpec
    tensors: dict[str, Tensor]
    guessed: bool


def read(path: Path, spec: AdapterSpec | None = None) -> Checkpoint:
    """Reads any known layout and checks it name by name and shape by shape.

    Args:
        path: a `.safetensors` file or a pickle (`.bin`, `.pth`, `.ckpt`; read with ``weights_only=True``).
        spec: habits and sizes to use instead of those found.

    Raises:
        CheckpointError: the file is missing, truncated, no weights, or of another layout; missing, unexpected and
            misshapen entries, and those that are not finite, are listed by name.
    """
    state, metadata = read_state(path)
    tensors, released = to_ours(state, str(path))
    guessed = spec is None and bool(released)
    if guessed:
        spec = released_spec(tensors, "sdxl" if "image_proj_model" in released else "sd15", str(path))
    elif spec is None:
        spec = _read_spec(path, metadata)
    check(spec, tensors, str(path))
    check_finite(tensors.items(), str(path))
    return Checkpoint(spec, tensors, guessed)


def read_state(path: Path) -> tuple[Mapping[str, Any], dict[str, str]]:
    """Contents and metadata of a weights file of any layout, safetensors or a pickle (read with ``weights_only=True``).

    Raises:
        CheckpointError: the file is missing, truncated, or no weights.
    """
    check_file(path, what="weights file", error=CheckpointError)
    return _read_safetensors(path) if path.suffix == ".safetensors" else (_read_pickle(path), {})


def write(path: Path, spec: AdapterSpec, tensors: Mapping[str, Tensor]) -> None:
    """Writes one safetensors file that explains itself: the spec is in its metadata. Never half a file.

    Raises:
        InputError: the file cannot be written.
    """
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as temporary:
        save_file(contiguous, temporary, metadata={"format": "pt", "spec": json.dumps(spec.to_dict())})


def write_folder(folder: Path, spec: AdapterSpec, tensors: Mapping[str, Tensor]) -> None:
    """Writes `config.json` and `model.safetensors`; the config comes last, so an interrupted write is noticed.

    Raises:
        InputError: the folder cannot be written.
    """
    write(folder / WEIGHTS_NAME, spec, tensors)
    write_whole(folder / CONFIG_NAME, json.dumps(spec.to_dict(), indent=2) + "\n")


def locate(source: str | os.PathLike[str], weight_name: str | None = None, revision: str | None = None) -> Path:
    """The weights file meant by a file, a folder, or a hub id (downloaded through the hub's cache).

    Raises:
        CheckpointError: there is no such file, folder or repository, or it is not clear which file is meant.
    """
    path = Path(source)
    if path.is_file():
        return path
    if path.is_dir():
        return _in_folder(path, weight_name)
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", str(source)) or path.suffix in (".bin", ".safetensors", ".pth"):
        raise CheckpointError(
            f"no weights at {source}: neither a file, nor a folder, nor a hub id such as JackAILab/ConsistentID"
        )
    return _from_hub(str(source), weight_name, revision)


def _in_folder(folder: Path, weight_name: str | None) -> Path:
    if weight_name is not None:
        if not (folder / weight_name).is_file():
            raise CheckpointError(f"no file {weight_name} in {folder}; there are {listed(_weights_in(folder))}")
        return folder / weight_name
    if (folder / WEIGHTS_NAME).is_file():
        return folder / WEIGHTS_NAME
    if len(names := _weights_in(folder)) != 1:
        raise CheckpointError(f"{folder} holds {listed(names)}; say which one is meant by weight_name=")
    return folder / names[0]


def _weights_in(folder: Path) -> list[str]:
    return sorted(x.name for x in folder.iterdir() if x.suffix in (".safetensors", ".bin", ".pth", ".ckpt"))


def _from_hub(repository: str, weight_name: str | None, revision: str | None) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        path = hf_hub_download(repository, weight_name or WEIGHTS_NAME, revision=revision)
        if weight_name is None:
            hf_hub_download(repository, CONFIG_NAME, revision=revision)
    except LocalEntryNotFoundError as error:
        raise CheckpointError(
            f"{repository} is not in the local cache and the hub cannot be reached: connect, or download it elsewhere"
            " and give its folder"
        ) from error
    except EntryNotFoundError as error:
        raise CheckpointError(
            f"{repository} on the hub has no {weight_name or f'{WEIGHTS_NAME} and {CONFIG_NAME}'};"
            " give the name of its weights file by weight_name="
        ) from error
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise CheckpointError(
            f"cannot fetch {repository} from the hub ({error}); check the id and your login"
        ) from error
    return Path(path)


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} is not a whole safetensors file ({error}); {REMEDY}") from error


def _read_pickle(path: Path) -> Mapping[str, Any]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointError(f"{path} is truncated or not a file of weights ({reason}); {REMEDY}") from error
    if not isinstance(state, Mapping) or not all(isinstance(name, str) for name in state):
        raise CheckpointError(f"{path} holds a {type(state).__name__}, not named weights; {REMEDY}")
    return state


def _read_spec(path: Path, metadata: Mapping[str, str]) -> AdapterSpec:
    config = path.with_name(CONFIG_NAME)
    if not config.exists() and "spec" not in metadata:
        raise CheckpointError(f"{path} does not say what it is, and there is no {CONFIG_NAME} beside it; {REMEDY}")
    try:
        if config.exists():
            found = read_json(config, MAX_CONFIG_BYTES, what="config", error=CheckpointError)
        else:
            found = parse_json(metadata["spec"], str(path), CheckpointError)
        return AdapterSpec.from_dict(found)
    except CheckpointError as error:
        raise CheckpointError(f"{config} is not an adapter's config ({error}); {REMEDY}") from error

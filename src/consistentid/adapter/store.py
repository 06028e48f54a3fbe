"""Adapter weights on disk: the released layouts, training dumps and our own, all turned into one.

Ours is a flat mapping ``<module>.<name>`` with the modules `image_projection`, `facial_encoder` and `attention`.
The last holds the layers that live in the UNet, by the number of their attention layer: down blocks, up blocks, middle
block, each transformer block giving self-attention (even) and cross-attention (odd).
"""

from __future__ import annotations

import json
import os
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from consistentid.adapter.nn.facial_encoder import FacialEncoder
from consistentid.adapter.nn.image_projection import ImageProjection
from consistentid.adapter.spec import AdapterSpec
from consistentid.errors import CheckpointError
from consistentid.files.weights import listed, natural
from consistentid.files.writing import replacing, write_whole

WEIGHTS_NAME = "model.safetensors"
CONFIG_NAME = "config.json"

_MODULES = {
    "image_proj": "image_projection",
    "image_proj_model": "image_projection",
    "FacialEncoder": "facial_encoder",
    "adapter_modules": "attention",
}
_OURS = ("image_projection", "facial_encoder", "attention")
_IGNORED = ("unet",)  # a training dump repeats the frozen base model
_REMEDY = "download it again, or check that it is a ConsistentID checkpoint"


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
            misshapen entries are listed by name.
    """
    state, metadata = read_state(path)
    tensors, released = to_ours(state, str(path))
    guessed = spec is None and bool(released)
    if guessed:
        spec = released_spec(tensors, "sdxl" if "image_proj_model" in released else "sd15", str(path))
    elif spec is None:
        spec = _read_spec(path, metadata)
    check(spec, tensors, str(path))
    return Checkpoint(spec, tensors, guessed)


def read_state(path: Path) -> tuple[Mapping[str, Any], dict[str, str]]:
    """Contents and metadata of a weights file of any layout, safetensors or a pickle (read with ``weights_only=True``).

    Raises:
        CheckpointError: the file is missing, truncated, or no weights.
    """
    if not path.is_file():
        raise CheckpointError(f"no weights file {path}; check the path")
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


def to_ours(state: Mapping[str, Any], source: str) -> tuple[dict[str, Tensor], set[str]]:
    """Renames a released checkpoint, a training dump or our own layout into our flat layout.

    Returns:
        The tensors, and the names of released modules found (empty for our own layout).

    Raises:
        CheckpointError: `state` has entries of no known module.
    """
    flat: dict[str, Any] = {}
    for module, value in state.items():
        flat |= {f"{module}.{name}": x for name, x in value.items()} if isinstance(value, Mapping) else {module: value}
    tensors: dict[str, Tensor] = {}
    unexpected, released = [], set()
    for key, value in flat.items():
        module, _, name = key.removeprefix("module.").partition(".")
        if module in _IGNORED:
            continue
        if not isinstance(value, Tensor) or not (module in _MODULES or module in _OURS):
            unexpected.append(key)
            continue
        if module in _MODULES:
            released.add(module)
        tensors[f"{_MODULES.get(module, module)}.{name.removeprefix('module.')}"] = value
    if unexpected or not tensors:
        found = f"unexpected entries {listed(unexpected)}" if unexpected else "it is empty"
        raise CheckpointError(
            f"{source} is not a ConsistentID checkpoint: {found}; expected are modules"
            f" {', '.join([*_MODULES, *_OURS])}; {_REMEDY}"
        )
    return tensors, released


def released_spec(tensors: Mapping[str, Tensor], hint: Literal["sd15", "sdxl"], source: str) -> AdapterSpec:
    """Spec of weights without a config: sizes from the tensors' shapes, habits from the width of the text.

    Args:
        tensors: state in our layout.
        hint: the family of base models when the width is neither SD1.5's nor SDXL's.
        source: name for messages.

    Raises:
        CheckpointError: tensors that give the sizes are missing.
    """
    image, facial = "image_projection", "facial_encoder.visual_projection"
    needed = {
        "proj": f"{image}.proj.0.weight",
        "norm": f"{image}.norm.weight",
        "tokens": f"{image}.proj.2.weight",
        "clip": f"{image}.perceiver_resampler.proj_in.weight",
        "id_q": f"{image}.perceiver_resampler.layers.0.0.to_q.weight",
        "latents": f"{facial}.latents",
        "facial_q": f"{facial}.layers.0.0.to_q.weight",
        "lora": "attention.0.to_q_lora.down.weight",
    }
    if missing := [name for name in needed.values() if name not in tensors]:
        raise CheckpointError(f"{source} lacks {listed(missing)}; {_REMEDY}")
    shape = {name: tensors[key].shape for name, key in needed.items()}
    text_dim = shape["norm"][0]
    dim_head = 64  # of every released size; it cannot be read from the shapes
    return AdapterSpec.released(
        {768: "sd15", 2048: "sdxl"}.get(text_dim, hint),  # type: ignore[arg-type]
        id_dim=shape["proj"][1],
        id_hidden=shape["proj"][0],
        clip_dim=shape["clip"][1],
        text_dim=text_dim,
        tokens=shape["tokens"][0] // text_dim,
        dim_head=dim_head,
        id_heads=shape["id_q"][0] // dim_head,
        id_depth=_depth(tensors, f"{image}.perceiver_resampler.layers"),
        facial_dim=shape["latents"][-1],
        facial_heads=shape["facial_q"][0] // dim_head,
        facial_depth=_depth(tensors, f"{facial}.layers"),
        lora_rank=shape["lora"][0],
    )


def check(spec: AdapterSpec, tensors: Mapping[str, Tensor], source: str) -> None:
    """Compares a state in our layout with what `spec` needs.

    Raises:
        CheckpointError: entries are missing, unexpected or of another shape; they are listed by name.
    """
    with torch.device("meta"):
        modules: dict[str, nn.Module] = {
            "image_projection": build_image_projection(spec),
            "facial_encoder": build_facial_encoder(spec),
        }
    expected = {f"{m}.{name}": x.shape for m, module in modules.items() for name, x in module.state_dict().items()}
    layers = {int(match[1]) for name in tensors if (match := re.match(r"attention\.(\d+)\.", name))}
    attention = {f"attention.{i}.{name}" for i in range(max(layers, default=-1) + 1) for name in layer_names(i)}
    missing = [name for name in sorted({*expected, *attention}, key=natural) if name not in tensors]
    unexpected = [name for name in tensors if name not in expected and name not in attention]
    misshapen = [
        f"{name} {tuple(tensors[name].shape)} instead of {tuple(shape)}"
        for name, shape in expected.items()
        if name in tensors and tensors[name].shape != shape
    ]
    if not layers:
        missing.append("attention.*")
    problems = {"missing": missing, "unexpected": unexpected, "of another shape": misshapen}
    if any(problems.values()):
        text = "; ".join(f"{what}: {listed(names)}" for what, names in problems.items() if names)
        raise CheckpointError(f"{source} does not fit the adapter: {text}; {_REMEDY}")


def layer_names(index: int) -> list[str]:
    """Tensors of attention layer `index`: LoRA on q, k, v, out; in cross-attention (odd numbers) the ID layers too."""
    lora = [f"to_{x}_lora.{side}.weight" for x in ("q", "k", "v", "out") for side in ("down", "up")]
    return lora + (["to_k_ip.weight", "to_v_ip.weight"] if index % 2 else [])


def build_image_projection(spec: AdapterSpec) -> ImageProjection:
    """A fresh image projection of the sizes in `spec`."""
    return ImageProjection(
        spec.id_dim,
        spec.clip_dim,
        spec.text_dim,
        spec.tokens,
        hidden=spec.id_hidden,
        depth=spec.id_depth,
        heads=spec.id_heads,
        dim_head=spec.dim_head,
        shortcut=spec.shortcut,
    )


def build_facial_encoder(spec: AdapterSpec) -> FacialEncoder:
    """A fresh facial encoder of the sizes in `spec`."""
    return FacialEncoder(
        spec.clip_dim,
        spec.text_dim,
        dim=spec.facial_dim,
        depth=spec.facial_depth,
        heads=spec.facial_heads,
        dim_head=spec.dim_head,
    )


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
        raise CheckpointError(f"{path} is not a whole safetensors file ({error}); {_REMEDY}") from error


def _read_pickle(path: Path) -> Mapping[str, Any]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointError(f"{path} is truncated or not a file of weights ({reason}); {_REMEDY}") from error
    if not isinstance(state, Mapping) or not all(isinstance(name, str) for name in state):
        raise CheckpointError(f"{path} holds a {type(state).__name__}, not named weights; {_REMEDY}")
    return state


def _read_spec(path: Path, metadata: Mapping[str, str]) -> AdapterSpec:
    config = path.with_name(CONFIG_NAME)
    if not config.is_file() and "spec" not in metadata:
        raise CheckpointError(f"{path} does not say what it is, and there is no {CONFIG_NAME} beside it; {_REMEDY}")
    try:
        return AdapterSpec.from_dict(json.loads(config.read_text() if config.is_file() else metadata["spec"]))
    except (OSError, ValueError, CheckpointError) as error:
        raise CheckpointError(f"{config} is not an adapter's config ({error}); {_REMEDY}") from error


def _depth(tensors: Mapping[str, Tensor], prefix: str) -> int:
    return 1 + max(
        int(name.removeprefix(f"{prefix}.").split(".")[0]) for name in tensors if name.startswith(f"{prefix}.")
    )

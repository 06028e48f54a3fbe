"""What a training needs to go on, and what frozen networks gave: tensors on disk that know whether they are whole.

A file has its length from the moment it is made, so after a power cut a part of it may be zeros. It would load, and a
run would go on with other weights; so every file carries the digest of its tensors.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn import functional as F


class DamagedError(Exception):
    """A file is not what was written; the text says how it shows."""


def digest(tensors: Mapping[str, Tensor]) -> str:
    """64 hexadecimal digits that follow from names, kinds, shapes and values."""
    hashed = hashlib.sha256()
    for name in sorted(tensors):
        x = tensors[name].detach().cpu().contiguous()
        hashed.update(f"{name} {x.dtype} {tuple(x.shape)}".encode())
        hashed.update(x.reshape(-1).view(torch.uint8).numpy().data)
    return hashed.hexdigest()


def weights_digest(*modules: nn.Module) -> str:
    """16 hexadecimal digits that tell one set of weights from another, whatever file they came from."""
    named = {f"{i}.{name}": x for i, module in enumerate(modules) for name, x in module.state_dict().items()}
    return digest(named)[:16]


def write_tensors(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any] | None = None) -> None:
    """Write named tensors and plain values with their digest to a file, under the name it is given."""
    whole = {name: x.detach().cpu().contiguous() for name, x in tensors.items()}
    save_file(whole, path, metadata={"sha256": digest(whole), "about": json.dumps(about or {})})


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of `write_tensors`.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedError: it is not as it was written.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            told = (file.metadata() or {}).get("sha256")
    except FileNotFoundError:
        raise
    except (OSError, SafetensorError) as error:  # of a folder, too
        raise DamagedError(str(error)) from None
    if told != digest(tensors):
        raise DamagedError("its content is not what was written")
    return tensors


def read_about(path: Path) -> dict[str, Any]:
    """The plain values of `write_tensors`, without reading the tensors.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedError: its head is not as it was written.
    """
    try:
        with safe_open(path, framework="pt") as file:
            about: dict[str, Any] = json.loads((file.metadata() or {})["about"])
            return about
    except FileNotFoundError:
        raise
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise DamagedError(str(error)) from None


# ---------------------------------------------------------------------------------------------------------- optimisers


def misfits(found: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> list[str]:
    """Names, in their order, of tensors that only one of two networks has, or that have other shapes in them."""
    shapes, ours = ({name: x.shape for name, x in tensors.items()} for tensors in (found, own))
    return [name for name in sorted(shapes | ours) if shapes.get(name) != ours.get(name)]


def widened(x: Tensor, like: Tensor) -> Tensor:
    """A tensor with zeros behind it in every dimension in which another of as many has more; it is never cut."""
    more = [max(0, b - a) for a, b in zip(x.shape, like.shape, strict=True)]
    return F.pad(x, [pad for size in reversed(more) for pad in (0, size)])


def optimiser_state(optimiser: torch.optim.Optimizer, named: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """What an optimiser keeps of each parameter: "NAME/WHAT" -> tensor, put together from all processes."""
    return {
        f"{name}/{what}": whole(torch.as_tensor(x))
        for name, parameter in named.items()
        for what, x in optimiser.state.get(parameter, {}).items()
    }


def restore_optimiser(
    optimiser: torch.optim.Optimizer, named: Mapping[str, nn.Parameter], state: Mapping[str, Tensor]
) -> None:
    """Give an optimiser back what `optimiser_state` took."""
    for key, value in state.items():
        name, _, what = key.rpartition("/")
        optimiser.state[named[name]][what] = _moment(named[name], value)


def whole(x: Tensor) -> Tensor:
    """A tensor that may be shared among processes, as one."""
    return x.full_tensor() if isinstance(x, DTensor) else x


def shared_like(other: Tensor, x: Tensor) -> Tensor:
    """A whole tensor, shared among processes as another is, on its device and in its layout in memory."""
    if isinstance(other, DTensor):
        return distribute_tensor(x.to(other.device), other.device_mesh, other.placements)
    return torch.empty_like(other, dtype=x.dtype).copy_(x)


def _moment(parameter: Tensor, value: Tensor) -> Tensor | float:
    """What an optimiser kept of a parameter, as it had it: 8-bit ones count steps without a tensor."""
    if value.shape == parameter.shape:
        return shared_like(parameter.detach(), value)
    if value.ndim == 0:
        return value if value.is_floating_point() else value.item()
    return value.to(parameter.device)

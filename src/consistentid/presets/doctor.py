"""What this machine has and what a preset needs of it: the facts behind `consistentid doctor`."""

from __future__ import annotations

import math
import platform
import shutil
from pathlib import Path
from typing import Any

from consistentid.errors import CheckpointError
from consistentid.files.output import versions
from consistentid.presets.fetch import lacking, weightless
from consistentid.presets.network import Network
from consistentid.presets.preset import Preset

_FETCHED = ("to fetch", "in part")
"""States of what `consistentid fetch` gets; "not known" is a repository of which no files are named."""
_WORKING = 1.25
"""Memory in use over that of the weights: activations and the library take some."""


def examine(preset: Preset, name: str = "") -> dict[str, Any]:
    """Versions, devices, memory and disk of this machine, and the state of each network of the preset.

    Nothing is fetched and no network is loaded.

    Args:
        preset: any.
        name: by which the command line knows it, a path for example; by default its own.

    Returns:
        JSON data: "versions", "system", "devices", "memory", "disk", "offline", whether the hub may not be asked,
        "preset", "networks", "to_fetch_mb", "fetch", the command that fetches all that is missing, "unpinned", roles
        whose networks may change on the hub, "fits", which says for each device what the weights take of its memory,
        and "problems", one line each with its remedy; empty = the preset can be used, after fetching what is missing.
    """
    from huggingface_hub.constants import is_offline_mode

    found = networks_of(preset, name)
    networks, to_fetch = found["networks"], found["to_fetch_mb"]
    memory, disk, devices = _memory(), _disk(), _devices()
    fits = [_fit(preset, device, memory["available_mb"]) for device in devices]
    problems = _problems(preset, networks, to_fetch, fits, disk)
    if to_fetch and is_offline_mode():
        problems.insert(
            0,
            f"offline: HF_HUB_OFFLINE is set, and {to_fetch} MB are not here; unset it, or fetch them on another"
            " machine and name their paths in a preset of your own",
        )
    return {
        "versions": versions(),
        "system": platform.platform(),
        "devices": devices,
        "memory": memory,
        "disk": disk,
        "offline": is_offline_mode(),
        "preset": preset.name,
        **found,
        "unpinned": [role for role, network in preset.networks.items() if network.repo and not network.revision],
        "fits": fits,
        "problems": problems,
    }


def networks_of(preset: Preset, name: str = "") -> dict[str, Any]:
    """The "networks", "to_fetch_mb" and "fetch" of `examine`: what is here, without looking whether it is whole."""
    networks = [_network(role, network) for role, network in preset.networks.items()]
    # Two roles may share one file: it is fetched once.
    to_fetch = sum({x["source"]: x["megabytes"] for x in networks if x["state"] in _FETCHED}.values())
    missing = any(x["state"] in _FETCHED for x in networks)
    return {
        "networks": networks,
        "to_fetch_mb": to_fetch,
        "fetch": f"consistentid fetch --preset {name or preset.name}" if missing else None,
    }


def _network(role: str, network: Network) -> dict[str, Any]:
    found = network.find()
    if network.incomplete():
        state, megabytes = "incomplete", network.megabytes
    elif found and network.path and weightless(found):
        state, megabytes = "empty", 0
    elif found and lacking(found):
        state, megabytes = "in part", network.megabytes
    elif found:
        state, megabytes = "present", round(_bytes(found) / 1e6)
    elif network.repo and not network.files:
        state, megabytes = "not known", network.megabytes
    elif network.repo or network.kind == "insightface":
        state, megabytes = "to fetch", network.megabytes
    else:
        state, megabytes = ("missing" if network.path else "built in"), 0
    return {
        "role": role,
        "kind": network.kind,
        "source": str(network),
        "revision": network.revision,
        "state": state,
        "path": str(found) if found else None,
        "sha256": _sha256(network),
        "megabytes": megabytes,
        "licence": network.licence,
    }


def _sha256(network: Network) -> str | None:
    """First 12 hexadecimal digits of the weights' hash, as the hub shows it; None where there are none."""
    from consistentid.presets.loading import network_name

    try:
        return network_name(network).rpartition("@")[2] or None
    except CheckpointError:
        return None


def _problems(
    preset: Preset, networks: list[dict[str, Any]], to_fetch: int, fits: list[dict[str, Any]], disk: dict[str, Any]
) -> list[str]:
    problems = [
        f"{item['role']}: {item['source']} is missing; correct the preset or install the package again"
        for item in networks
        if item["state"] == "missing"
    ]
    problems += [
        f"{item['role']}: {item['source']} holds no weights; correct the preset, or put them there"
        for item in networks
        if item["state"] == "empty"
    ]
    problems += [f"{role}: {broken}" for role, network in preset.networks.items() if (broken := network.incomplete())]
    for role, network in preset.networks.items():  # sums of what is small; those of gigabytes are checked by fetch
        if network.sha256:
            try:
                network.check()
            except CheckpointError as damage:
                problems.append(f"{role}: {damage}")
    if to_fetch > disk["free_mb"]:
        problems.append(f"disk: {to_fetch} MB to fetch, {disk['free_mb']} MB free at {disk['path']}; free some space")
    if not any(fit["fits"] or fit["fits_low_memory"] for fit in fits):
        best = max(fits, key=lambda fit: fit["memory_mb"] - fit["low_memory_mb"])
        problems.append(
            f"memory: {preset.name}'s weights take {best['low_memory_mb']} MB at least, {best['device']} has"
            f" {best['memory_mb']} MB; close other programs or use a smaller preset"
        )
    return problems


def _fit(preset: Preset, device: dict[str, Any], available: int) -> dict[str, Any]:
    """What the weights take of a device's memory, all at once and under --low-memory; MB."""
    import torch

    from consistentid.files.devices import resolve_dtype

    name = device["name"]
    dtype = resolve_dtype(preset.dtype, torch.device(name))
    sizes = {role: _parameters(network) for role, network in preset.networks.items()}
    encoder, adapter = sum(sizes["image_encoder"]), sum(sizes["adapter"])
    sampling = sum(sizes["base"]) + adapter + sum(sum(size) for role, size in sizes.items() if role == "controlnet")
    # a GPU need not hold the text encoders while the UNet computes, and nobody the image encoder
    alone = sampling if name == "cpu" else max(sizes["base"]) + adapter
    has = int(device.get("memory_mb", available))
    whole, low = (round(millions * dtype.itemsize) for millions in (sampling + encoder, max(alone, encoder)))
    return {
        "device": name,
        "dtype": str(dtype).removeprefix("torch."),
        "memory_mb": has,
        "whole_mb": whole,
        "low_memory_mb": low,
        "fits": whole * _WORKING < has,
        "fits_low_memory": low * _WORKING < has,
    }


def _parameters(network: Network) -> list[float]:
    """Millions of parameters of each of a network's files."""
    from safetensors import SafetensorError, safe_open

    if network.parameters:
        return list(network.parameters)
    found = network.find()
    if found is None:
        return [network.megabytes / 2]
    counts = []
    for file in [found] if found.is_file() else sorted(found.rglob("*.safetensors")):
        if file.suffix == ".safetensors":
            try:
                with safe_open(file, "pt") as weights:
                    shapes = [weights.get_slice(name).get_shape() for name in weights.keys()]  # noqa: SIM118 - no dict
            except (OSError, SafetensorError):  # damaged or a folder, which is said elsewhere
                continue
            counts.append(sum(math.prod(shape) for shape in shapes) / 1e6)
    return counts or [_bytes(found) / 2e6]


def _devices() -> list[dict[str, Any]]:
    import torch

    devices: list[dict[str, Any]] = [{"name": "cpu", "about": platform.processor(), "threads": torch.get_num_threads()}]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        free, total = torch.cuda.mem_get_info(index)
        devices.append(
            {"name": f"cuda:{index}", "about": properties.name, "memory_mb": total >> 20, "free_mb": free >> 20}
        )
    if torch.backends.mps.is_available():
        devices.append({"name": "mps", "about": "Apple GPU"})
    return devices


def _memory() -> dict[str, int]:
    import psutil  # type: ignore[import-untyped]

    memory = psutil.virtual_memory()
    return {"total_mb": memory.total >> 20, "available_mb": memory.available >> 20}


def _disk() -> dict[str, Any]:
    from huggingface_hub.constants import HF_HUB_CACHE

    cache = Path(HF_HUB_CACHE)
    existing = next(path for path in (cache, *cache.parents) if path.exists())
    return {"path": str(cache), "free_mb": shutil.disk_usage(existing).free >> 20}


def _bytes(path: Path) -> int:
    return path.stat().st_size if path.is_file() else sum(f.stat().st_size for f in path.rglob("*") if f.is_file())

"""What this machine has and what a preset needs of it: the facts behind `consistentid doctor`."""

from __future__ import annotations

import platform
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from consistentid.output import versions
from consistentid.presets import Network, Preset


def examine(preset: Preset) -> dict[str, Any]:
    """Versions, devices, memory and disk of this machine, and the state of each network of the preset.

    Nothing is fetched and no network is loaded.

    Returns:
        JSON data: "versions", "system", "devices", "memory", "disk", "preset", "networks", "to_fetch_mb", and
        "problems", one line each with its remedy; empty = the preset can be used, after fetching what is missing.
    """
    networks = [_network(role, network) for role, network in preset.networks.items()]
    # Two roles may share one file: it is fetched once.
    missing = {item["source"]: item["megabytes"] for item in networks if item["state"] == "to fetch"}
    memory, disk = _memory(), _disk()
    return {
        "versions": versions(),
        "system": platform.platform(),
        "devices": _devices(),
        "memory": memory,
        "disk": disk,
        "preset": preset.name,
        "networks": networks,
        "to_fetch_mb": sum(missing.values()),
        "problems": _problems(preset, networks, sum(missing.values()), memory, disk),
    }


def _network(role: str, network: Network) -> dict[str, Any]:
    found = network.find()
    if found:
        state, megabytes = "present", round(_bytes(found) / 1e6)
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
        "megabytes": megabytes,
        "licence": network.licence,
    }


def _problems(
    preset: Preset, networks: list[dict[str, Any]], to_fetch: int, memory: dict[str, int], disk: dict[str, Any]
) -> list[str]:
    problems = [
        f"{item['role']}: {item['source']} is missing; correct the preset or install the package again"
        for item in networks
        if item["state"] == "missing"
    ]
    if any(item["kind"] == "insightface" for item in networks) and not find_spec("insightface"):
        problems.append("face analysis: insightface is not installed; run: pip install 'consistentid[photos]'")
    if to_fetch > disk["free_mb"]:
        problems.append(f"disk: {to_fetch} MB to fetch, {disk['free_mb']} MB free at {disk['path']}; free some space")
    largest = max(item["megabytes"] for item in networks)
    if largest > memory["available_mb"]:
        problems.append(
            f"memory: {memory['available_mb']} MB are available, {preset.name}'s largest network takes {largest} MB;"
            " close other programs or use a smaller preset"
        )
    return problems


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
    import psutil  # type: ignore[import-untyped]  # comes with accelerate

    memory = psutil.virtual_memory()
    return {"total_mb": memory.total >> 20, "available_mb": memory.available >> 20}


def _disk() -> dict[str, Any]:
    from huggingface_hub.constants import HF_HUB_CACHE

    cache = Path(HF_HUB_CACHE)
    existing = next(path for path in (cache, *cache.parents) if path.exists())
    return {"path": str(cache), "free_mb": shutil.disk_usage(existing).free >> 20}


def _bytes(path: Path) -> int:
    return path.stat().st_size if path.is_file() else sum(f.stat().st_size for f in path.rglob("*") if f.is_file())

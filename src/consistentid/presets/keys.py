"""What the pictures of a preset depend on, as plain values that are equal if and only if the networks are."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from consistentid.files.weights import content_digest
from consistentid.presets.network import Network
from consistentid.presets.preset import Preset

_DRAWING = ("detector", "recogniser", "parser", "image_encoder", "base", "adapter", "controlnet")


def network_key(network: Network) -> str:
    """One network: its content where it lies on this machine, its commit where it comes from the hub.

    Weights, configuration and vocabulary count, its place does not.
    """
    about = [network.kind, *(f"{name}={value}" for name, value in sorted(network.options.items()))]
    if network.path:
        about.append(f"{network.path.name}@{content_digest(network.path)}" if network.path.exists() else "missing")
    elif network.repo and network.revision:
        about.append("/".join((f"{network.repo}@{network.revision}", *network.files)))
    elif network.repo:  # a branch moves on, so what counts is what has been fetched of it
        found = network.find() if network.files else None
        about.append(f"{network}@{content_digest(found)}" if found else str(network))
    if network.variant:
        about.append(network.variant)
    if network.config and network.single_file:  # a folder brings its own
        about.append(f"with {network_key(network.config)}")
    return " ".join(filter(None, about))


def model_key(preset: Preset) -> dict[str, Any]:
    """All that shapes a preset's pictures but their `Settings`."""
    used = {role: network for role, network in preset.networks.items() if role in _DRAWING}
    return {
        **{role: network_key(network) for role, network in used.items()},
        "loras": [{"network": network_key(lora), "scale": lora.scale} for lora in preset.loras],
        "scheduler": preset.scheduler,
        "scheduler_options": dict(preset.scheduler_options),
    }


def settings_key(preset: Preset, **overrides: Any) -> dict[str, Any]:
    """All settings that shape a picture of the preset; how many are sampled at once does not."""
    settings = asdict(preset.settings.with_overrides(**overrides))
    return {name: value for name, value in settings.items() if name != "batch_size"}

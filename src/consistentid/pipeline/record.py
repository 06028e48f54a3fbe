"""How the pictures of a request are made, as the plain values that each of them carries."""

from __future__ import annotations

from typing import Any

from consistentid.files.images import pixel_digest
from consistentid.files.output import versions
from consistentid.pipeline.request import Request
from consistentid.presets.loading import network_name
from consistentid.presets.network import Network
from consistentid.presets.preset import Preset


def record_of(request: Request, preset: Preset) -> dict[str, Any]:
    """How the pictures of a request are made, without anything that is of this machine alone."""
    settings, people = request.settings(preset.settings), request.people
    used: dict[str, Network | None] = {"base": preset.base, "adapter": preset.adapter}
    if request.control:
        used["controlnet"] = preset.controlnet
    given = zip(("image", "mask", "control"), request.pictures, strict=True)
    texts, parts = request.of_each("face_text"), request.of_each("parts")
    sentences = [
        person.face_text or None if text is None and not words else text
        for person, text, words in zip(people, texts, parts, strict=True)
    ]
    described = [dict(words or {}) for words in parts]
    scales = [dict(values or {}) for values in request.of_each("part_scales")]
    several = {
        "person_prompts": list(request.of_each("person_prompts")),
        "person_scales": [1.0 if scale is None else scale for scale in request.of_each("person_scales")],
        "base_ratio": request.base_ratios(settings),
        "regions_end": request.regions_end,
    }
    return {
        "prompt": request.prompt if isinstance(request.prompt, str) else list(request.prompt),
        **settings.record(),
        "merge_at": request.merges(settings),
        "face_text": sentences if len(people) > 1 else (sentences or [request.face_text])[0],
        "parts": described if len(people) > 1 else (described or [{}])[0],
        "part_scales": scales if len(people) > 1 else (scales or [{}])[0],
        **(several if len(people) > 1 or request.regions is not None else {}),
        "base_alone": request.base_alone,
        "scheduler": preset.scheduler,
        "scheduler_options": dict(preset.scheduler_options),
        **({"strength": settings.strength} if request.image else {}),
        **({"control_scale": settings.control_scale} if request.control else {}),
        "given": {name: pixel_digest(picture) for name, picture in given if picture},
        "preset": preset.name,
        **{role: network_name(network) or network.repo for role, network in used.items() if network},
        "loras": [{"name": network_name(lora) or lora.repo, "scale": lora.scale} for lora in preset.loras],
        "networks": dict(people[0].provenance) if people else {},
        "versions": versions(),
        "ai_generated": True,
    }

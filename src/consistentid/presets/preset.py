"""Presets: which networks work together, and the settings they were made for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any

from consistentid.errors import InputError
from consistentid.files.config import Between, check
from consistentid.presets.network import Lora, Network, lora_named, network_named
from consistentid.presets.settings import Settings, needed_settings


@dataclass(frozen=True)
class Preset:
    """Everything `ConsistentIDPipeline.from_preset` needs.

    Attributes:
        base: a diffusers pipeline folder, hub repository, or single-file checkpoint.
        adapter: the ConsistentID weights, in any layout `ConsistentID.from_pretrained` reads.
        image_encoder: the CLIP vision model with its processor's configuration.
        parser, detector, recogniser: the face networks; a detector of kind "labels" is the parser's labels read.
        judge: a second recogniser that scores and never conditions; may be absent.
        scene_reader: tells what a drawing shows, for scoring; may be absent.
        controlnet: follows pictures of poses, depths or edges; may be absent.
        loras: for the base, beside the adapter's own.
        scheduler: a name of `SAMPLERS` or a class of diffusers; empty = the base's own. `scheduler_options` go to its
            `from_config`.
        threads: processor threads that torch takes, on a CPU; 0 = all that it may. Small networks are hardly faster
            with several, and many times slower where another process wants a core: the others wait, spinning.
        dtype: "auto" (float16 on a GPU, float32 elsewhere), "float32", "float16" or "bfloat16".
        drawings_only: the networks know drawings only, so photographs are refused.
        same_person: cosine of two embeddings of the recogniser from which two pictures are taken for one person, -1 to
            1; `benchmarks/same_person.py` measures it. The default is for ArcFace networks such as w600k_r50.
        settings: what a call leaves open.
    """

    name: str
    about: str
    base: Network
    adapter: Network
    image_encoder: Network
    parser: Network
    detector: Network
    recogniser: Network
    judge: Network | None = None
    scene_reader: Network | None = None
    controlnet: Network | None = None
    loras: tuple[Lora, ...] = ()
    scheduler: str = ""
    scheduler_options: Mapping[str, Any] = field(default_factory=dict)
    threads: Annotated[int, Between(0, 1024)] = 0
    dtype: str = "auto"
    drawings_only: bool = False
    same_person: Annotated[float, Between(-1, 1)] = 0.2
    settings: Settings = field(default_factory=Settings)

    def __post_init__(self) -> None:
        check(self)
        for role, known in _KINDS.items():
            network = self.networks.get(role)
            if network and network.kind not in known:
                cascade = " (a cascade of three networks)" if network.kind.lower() == "mtcnn" else ""
                raise InputError(f"{role}: unknown kind {network.kind!r}{cascade}; known kinds are {', '.join(known)}")
        for role, network in self.networks.items():
            allowed = _OPTIONS.get((role, network.kind), ())
            if not isinstance(network.options, Mapping) or set(network.options) - set(allowed):
                raise InputError(
                    f"{role}: options {network.options!r} are not known; allowed are {', '.join(allowed) or 'none'}"
                )

    @property
    def networks(self) -> dict[str, Network]:
        """All networks by role, in order of their use."""
        found = {role: getattr(self, role) for role in ROLES}
        found |= {f"lora {number}": lora for number, lora in enumerate(self.loras, 1)}
        return {role: network for role, network in found.items() if network is not None}

    def override(self, **changes: Any) -> Preset:
        """The same preset with other networks (a path, "owner/name" or "owner/name/file") or settings.

        `loras` is a list of those, each with ``:scale`` behind it if it is not 1. A scheduler of `SAMPLERS` brings the
        settings that it needs, which others given here overrule.

        Raises:
            InputError: an unknown name; the message lists the names there are.
        """
        settings = [item.name for item in fields(Settings)]
        plain = ["scheduler", "scheduler_options", "threads", "dtype", "drawings_only", "same_person"]
        if unknown := sorted(set(changes) - {*ROLES, "loras", *settings, *plain}):
            known = [*ROLES, "loras", *plain, *settings]
            raise InputError(f"a preset has no {', '.join(unknown)}; it has {', '.join(known)}")
        direct: dict[str, Any] = {name: changes[name] for name in plain if name in changes}
        direct |= {role: self._another(role, changes[role]) for role in ROLES if role in changes}
        if "loras" in changes:
            direct["loras"] = tuple(lora_named(str(source)) for source in changes["loras"])
        needed = needed_settings(changes.get("scheduler", ""))
        chosen = {name: changes[name] for name in settings if changes.get(name) is not None}
        direct["settings"] = self.settings.with_overrides(**{**needed, **chosen})
        return replace(self, **direct)

    def _another(self, role: str, source: Any) -> Network:
        network = network_named(str(source), Path.cwd(), f"{role}={source}")
        before: Network | None = getattr(self, role)
        if before is None:
            kinds = _KINDS.get(role, ())
            return replace(network, kind=kinds[0]) if len(kinds) == 1 else network
        # A file of another normalisation than the one before needs a preset of its own, which says so.
        origin = before.config if before.single_file else before
        return replace(network, kind=before.kind, options=before.options, config=origin if role == "base" else None)


ROLES = ("detector", "recogniser", "parser", "image_encoder", "base", "adapter", "judge", "scene_reader", "controlnet")
_KINDS = {
    "parser": ("segformer", "bisenet", "onnx"),
    "detector": ("labels", "onnx", "insightface"),
    "recogniser": ("onnx", "insightface"),
    "judge": ("onnx",),
    "scene_reader": ("onnx",),
}
_OPTIONS = {
    ("parser", "onnx"): ("size", "mean", "std", "labels"),
    ("detector", "labels"): ("side", "visible", "sure", "flat"),
}

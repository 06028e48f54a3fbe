"""Presets: which networks work together, where they come from, and the settings they were made for.

A preset is a YAML file: one of this package by name, or the user's own by path. Its paths are relative to the file.
"""

from __future__ import annotations

import numbers
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

import yaml

from consistentid.errors import ArgumentError, CheckpointError, InputError, first_line

FILE_NAME = "preset.yaml"
"""Name of the YAML file inside a preset folder."""


@dataclass(frozen=True)
class Network:
    """One network of a preset: where its weights lie, and what is worth knowing before they are fetched.

    Attributes:
        kind: which implementation reads it, where a role has several.
        path: a file or folder on this machine, or
        repo: a repository of the Hugging Face hub, with
        revision: the commit that was tested,
        variant: "fp16" where the repository has smaller weights of that name, and
        files: one file that is all of it, or those by which a repository used as a whole is known, the weights last.
        megabytes: what has to be fetched, roughly.
        parameters: millions of them, of each of its parts, where the weights are not here to be counted.
        licence: name of the licence, and what it forbids.
        config: of a base that is one file: a base of its family in diffusers' layout, of which all but the weights is
            used. By default that of the preset `sd15` or `sdxl`.
        options: how its implementation reads it, where files do not say; of a parser of kind "onnx" `size`, `mean`,
            `std` and `labels`, see `FaceParser.onnx`.
    """

    kind: str = ""
    path: Path | None = None
    repo: str = ""
    revision: str | None = None
    variant: str | None = None
    files: tuple[str, ...] = ()
    megabytes: int = 0
    parameters: tuple[float, ...] = ()
    licence: str = ""
    config: Network | None = None
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __str__(self) -> str:
        if self.path:
            return str(self.path)
        return f"{self.repo}/{self.files[0]}" if len(self.files) == 1 else self.repo or self.kind

    @property
    def single_file(self) -> bool:
        """Whether it is one file, not a folder or a repository used as a whole."""
        return self.path.is_file() if self.path else len(self.files) == 1

    def find(self) -> Path | None:
        """Its file or folder on this machine, or None; nothing is fetched."""
        if self.path:
            return self.path if self.path.exists() else None
        if not self.repo or not self.files:
            return None
        from huggingface_hub import try_to_load_from_cache

        found = [try_to_load_from_cache(self.repo, name, revision=self.revision) for name in self.files]
        if not all(isinstance(name, str) for name in found):
            return None
        first = Path(str(found[0]))
        return first if len(self.files) == 1 else first.parents[self.files[0].count("/")]

    def fetch(self) -> Path:
        """The file or folder on this machine, after fetching a single file through huggingface_hub if need be.

        Raises:
            CheckpointError: it is missing and cannot be fetched.
        """
        if present := self.find():
            return present
        if self.path:
            raise CheckpointError(
                f"{self.path}: no such weights; correct the preset's paths or install the package again"
            )
        from huggingface_hub import hf_hub_download

        with _fetching(self):
            return Path(hf_hub_download(self.repo, *self.files, revision=self.revision))

    def fetch_config(self) -> Path:
        """Its folder on this machine, after fetching all but the weights through huggingface_hub if need be.

        Raises:
            CheckpointError: it is missing and cannot be fetched.
        """
        if self.path:
            return self.fetch()
        from huggingface_hub import snapshot_download

        with _fetching(self):
            return Path(snapshot_download(self.repo, revision=self.revision, allow_patterns=["*.json", "*.txt"]))

    @property
    def pretrained(self) -> tuple[str, dict[str, str]]:
        """First argument and the others for a `from_pretrained` of diffusers or transformers, which then fetches it."""
        chosen = {"revision": self.revision, "variant": self.variant}
        source = str(self.fetch()) if self.path else self.repo
        return source, {name: value for name, value in chosen.items() if value}


@contextmanager
def _fetching(network: Network) -> Iterator[None]:
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise CheckpointError(f"{network}: cannot be fetched ({first_line(error)}); {UNREACHABLE}") from None


@dataclass(frozen=True)
class Lora(Network):
    """A LoRA for the base, beside the adapter's own.

    Attributes:
        scale: its strength; 1 = as trained.
    """

    scale: float = 1.0


UNREACHABLE = (
    "check the name and the network connection, or fetch it elsewhere and name its path in a preset of your own"
)
"""What to do about weights that cannot be fetched."""


@dataclass(frozen=True)
class Settings:
    """How pictures are made. A preset holds those it was made for; a call may change each.

    Attributes:
        steps: sampling steps, 1 to 500.
        guidance_scale: classifier-free guidance; 1 or less = off.
        scale: strength of the identity tokens; 0 = none, 1 = as trained.
        merge_at: fraction of the steps, 0 to 1, after which the fused facial text takes over (paper, section 3.4).
        width, height: pixels, multiples of 8; 0 = what the base was trained at.
        negative_prompt: what the pictures shall not show.
        strength: how far a given picture is drawn anew: 0 = kept, 1 = only its shape counts.
        control_scale: strength of the ControlNet.
        batch_size: pictures sampled at once; more needs more memory.

    Raises:
        InputError: a value out of its range.
    """

    steps: int = 50
    guidance_scale: float = 5.0
    scale: float = 1.0
    merge_at: float = 0.6
    width: int = 0
    height: int = 0
    negative_prompt: str = ""
    strength: float = 0.8
    control_scale: float = 1.0
    batch_size: int = 1

    def __post_init__(self) -> None:
        for item in fields(self):
            object.__setattr__(self, item.name, check_setting(item.name, getattr(self, item.name), item.name))

    def record(self) -> dict[str, Any]:
        """What shapes every picture, without what depends on the machine or is told with each picture."""
        others = ("width", "height", "batch_size", "strength", "control_scale")
        return {name: value for name, value in asdict(self).items() if name not in others}

    def with_overrides(self, **changes: Any) -> Settings:
        """The same settings with those changes that are not None."""
        return replace(self, **{name: value for name, value in changes.items() if value is not None})


_RANGES: Mapping[str, tuple[int, int]] = {
    "steps": (1, 500),  # beyond, schedulers repeat or leave out noise levels
    "guidance_scale": (0, 100),
    "scale": (0, 10),
    "merge_at": (0, 1),
    "strength": (0, 1),
    "control_scale": (0, 10),
    "width": (0, 8192),
    "height": (0, 8192),
    "batch_size": (1, 1024),
}


def check_setting(setting: str, value: Any, argument: str) -> Any:
    """A value of a setting, numbers of other libraries made Python's.

    Args:
        setting: name of a field of `Settings`.
        value: anything.
        argument: what it is called in the message.

    Raises:
        ArgumentError: it is of another kind, or out of its range.
    """
    if setting == "negative_prompt":
        if not isinstance(value, str):
            raise ArgumentError(f"{{{argument}}}={{value!r}} is not allowed; give a text", value=value)
        return str(value)
    low, high = _RANGES[setting]
    whole = isinstance(getattr(Settings, setting), int)
    kind: type[Any] = numbers.Integral if whole else numbers.Real
    if isinstance(value, bool) or not isinstance(value, kind) or not low <= value <= high:
        raise ArgumentError(
            f"{{{argument}}}={{value!r}} is not allowed; give {{kind}} from {{low}} to {{high}}",
            value=value,
            kind="an integer" if whole else "a number",
            low=low,
            high=high,
        )
    if setting in ("width", "height") and value % 8:
        raise ArgumentError(f"{{{argument}}}={{value!r}} is not allowed; give a multiple of 8", value=value)
    return int(value) if isinstance(value, numbers.Integral) else float(value)


@dataclass(frozen=True)
class Sampler:
    """A way of sampling by the name users know it by.

    Attributes:
        scheduler: class of diffusers.
        options: for its `from_config`.
        settings: what it needs of a call; distilled models take few steps and no guidance.
    """

    scheduler: str
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    settings: Mapping[str, Any] = field(default_factory=dict)


SAMPLERS: Mapping[str, Sampler] = {
    "ddim": Sampler("DDIMScheduler"),
    "euler": Sampler("EulerDiscreteScheduler"),
    "euler-a": Sampler("EulerAncestralDiscreteScheduler"),
    "dpm++": Sampler("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++", "use_karras_sigmas": True}),
    "unipc": Sampler("UniPCMultistepScheduler"),
    "lcm": Sampler("LCMScheduler", {}, {"steps": 8, "guidance_scale": 1.0}),
    "lightning": Sampler(
        "EulerDiscreteScheduler", {"timestep_spacing": "trailing"}, {"steps": 4, "guidance_scale": 1.0}
    ),
    "hyper-sd": Sampler("DDIMScheduler", {"timestep_spacing": "trailing"}, {"steps": 8, "guidance_scale": 1.0}),
}
"""Names for `Preset.scheduler`. The last three want a base or a LoRA that was distilled that way."""


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
    dtype: str = "auto"
    drawings_only: bool = False
    same_person: float = 0.2
    settings: Settings = field(default_factory=Settings)

    def __post_init__(self) -> None:
        for role, known in _KINDS.items():
            network = self.networks.get(role)
            if network and network.kind not in known:
                raise InputError(f"{role}: unknown kind {network.kind!r}; known kinds are {', '.join(known)}")
        for role, network in self.networks.items():
            allowed = _OPTIONS.get((role, network.kind), ())
            if not isinstance(network.options, Mapping) or set(network.options) - set(allowed):
                raise InputError(
                    f"{role}: options {network.options!r} are not known; allowed are {', '.join(allowed) or 'none'}"
                )
        if not isinstance(self.same_person, (int, float)) or not -1 <= self.same_person <= 1:
            raise InputError(f"same_person={self.same_person!r} is not allowed; give a number from -1 to 1")

    @property
    def networks(self) -> dict[str, Network]:
        """All networks by role, in order of their use."""
        found = {role: getattr(self, role) for role in _ROLES}
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
        plain = ["scheduler", "scheduler_options", "dtype", "drawings_only", "same_person"]
        if unknown := sorted(set(changes) - {*_ROLES, "loras", *settings, *plain}):
            known = [*_ROLES, "loras", *plain, *settings]
            raise InputError(f"a preset has no {', '.join(unknown)}; it has {', '.join(known)}")
        direct: dict[str, Any] = {name: changes[name] for name in plain if name in changes}
        direct |= {role: self._another(role, changes[role]) for role in _ROLES if role in changes}
        if "loras" in changes:
            direct["loras"] = tuple(_lora(source) for source in changes["loras"])
        needed = _needed_settings(changes.get("scheduler", ""))
        chosen = {name: changes[name] for name in settings if changes.get(name) is not None}
        direct["settings"] = self.settings.with_overrides(**{**needed, **chosen})
        return replace(self, **direct)

    def _another(self, role: str, source: Any) -> Network:
        network = _source(str(source), Path.cwd(), f"{role}={source}")
        before: Network | None = getattr(self, role)
        if before is None:
            return network
        config = before.config if before.single_file else before
        return replace(network, kind=before.kind, config=config if role == "base" else None)


_ROLES = ("detector", "recogniser", "parser", "image_encoder", "base", "adapter", "judge", "scene_reader", "controlnet")
_OPTIONAL = ("judge", "scene_reader", "controlnet")
_KINDS = {
    "parser": ("segformer", "bisenet", "onnx"),
    "detector": ("labels", "onnx", "insightface"),
    "recogniser": ("onnx", "insightface"),
    "judge": ("onnx",),
    "scene_reader": ("onnx",),
}

_OPTIONS = {("parser", "onnx"): ("size", "mean", "std", "labels")}


def preset_names() -> list[str]:
    """Names of the presets that come with the package."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.yaml"))


def load_preset(name_or_path: str | PathLike[str]) -> Preset:
    """Read a preset: a name of `preset_names`, a YAML file, or a folder that holds `preset.yaml`.

    Raises:
        InputError: no such preset, or its YAML is not as it should be.
    """
    if str(name_or_path) in preset_names():
        return _parse(Path(__file__).parent / f"{name_or_path}.yaml")
    path = Path(name_or_path)
    if path.is_dir():
        path = path / FILE_NAME
    if not path.is_file() or path.suffix not in (".yaml", ".yml"):
        raise InputError(
            f"unknown preset {str(name_or_path)!r}; known presets are {', '.join(preset_names())},"
            f" or give a YAML file or a folder that holds {FILE_NAME}"
        )
    return _parse(path)


def _parse(path: Path) -> Preset:
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise InputError(f"{path}: cannot be read as YAML ({first_line(error)}); correct the file") from None
    data = {"name": path.stem, "about": "", **_keys(data, Preset, path, "the preset")}
    for role in _ROLES:
        if data.get(role) is None:
            data.pop(role, None)
        else:
            data[role] = _network(data[role], Network, path, role)
    data["loras"] = tuple(_network(source, Lora, path, "loras") for source in data.get("loras") or ())
    required = [role for role in _ROLES if role not in _OPTIONAL]
    if missing := [role for role in required if role not in data]:
        raise InputError(f"{path}: lacks {', '.join(missing)}; a preset names {', '.join(required)}")
    settings = _keys(data.pop("settings", None) or {}, Settings, path, "settings")
    try:
        needed = _needed_settings(data.get("scheduler", ""))
        return Preset(**data, settings=Settings(**{**needed, **settings}))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


_N = TypeVar("_N", bound=Network)


def _needed_settings(scheduler: str) -> Mapping[str, Any]:
    return SAMPLERS[scheduler].settings if scheduler in SAMPLERS else {}


def _network(source: Any, kind: type[_N], path: Path, where: str) -> _N:
    """A network as the YAML file at `path` describes it."""
    if isinstance(source, str):
        source = {"path" if source.startswith((".", "/", "~")) else "repo": source}
    values = _keys(source, kind, path, where)
    if "path" in values:
        values["path"] = (path.parent.resolve() / Path(values["path"]).expanduser()).resolve()
    if "config" in values:
        values["config"] = _network(values["config"], Network, path, f"config of {where}")
    for name in ("files", "parameters"):
        values[name] = tuple(values.get(name, ()))
    return kind(**values)


def _keys(data: Any, kind: type, path: Path, where: str) -> dict[str, Any]:
    allowed = [item.name for item in fields(kind)]
    if not isinstance(data, dict):
        raise InputError(f"{path}: {where} is {data!r}; write a mapping with {', '.join(allowed)}")
    if unknown := sorted(str(key) for key in data.keys() - set(allowed)):
        raise InputError(f"{path}: {where} has unknown {', '.join(unknown)}; allowed are {', '.join(allowed)}")
    return dict(data)


def _lora(source: str) -> Lora:
    place, _, scale = source.rpartition(":")
    try:
        strength = float(scale) if place else 1.0
    except ValueError:  # a colon of the path
        place, strength = "", 1.0
    found = _source(place or source, Path.cwd(), f"lora={source}")
    return Lora(path=found.path, repo=found.repo, files=found.files, scale=strength)


def _source(source: str, folder: Path, what: str) -> Network:
    path = folder / Path(source).expanduser()
    if path.exists():
        return Network(path=path.resolve())
    parts = source.split("/")
    if len(parts) < 2 or not all(parts) or parts[0] in (".", "..", "~"):
        raise InputError(f"{what}: no such file or folder; give a path, owner/name, or owner/name/file of the hub")
    return Network(repo="/".join(parts[:2]), files=("/".join(parts[2:]),) if parts[2:] else ())

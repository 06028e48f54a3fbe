"""How pictures are made: the settings of a call, and ways of sampling by name."""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from consistentid.errors import ArgumentError


@dataclass(frozen=True)
class Settings:
    """How pictures are made. A preset holds those it was made for; a call may change each.

    Attributes:
        steps: sampling steps, 1 to 500.
        guidance_scale: classifier-free guidance; 1 or less = off.
        guidance_stop: fraction of the steps after which guidance stops; a step without costs half.
        scale: strength of the identity tokens; 0 = none, 1 = as trained.
        merge_at: fraction of the steps, 0 to 1, after which the fused facial text takes over (paper, section 3.4).
        width, height: pixels, multiples of 8; 0 = what the base was trained at.
        person_width: share of the width by which each person after the first makes a picture of several wider, where
            the call names none: a base that knows several people from wide pictures draws one in a square.
        base_ratio: share of the prompt alone within the regions of people, 0 to 1: with more of it they stand in one
            scene, with less their own words count.
        negative_prompt: what the pictures shall not show.
        strength: how far a given picture is drawn anew: 0 = kept, 1 = only its shape counts.
        control_scale: strength of the ControlNet.
        batch_size: pictures sampled at once; more needs more memory.

    Raises:
        InputError: a value out of its range.
    """

    steps: int = 50
    guidance_scale: float = 5.0
    guidance_stop: float = 1.0
    scale: float = 1.0
    merge_at: float = 0.6
    width: int = 0
    height: int = 0
    person_width: float = 0.0
    base_ratio: float = 0.0
    negative_prompt: str = ""
    strength: float = 0.8
    control_scale: float = 1.0
    batch_size: int = 1

    def __post_init__(self) -> None:
        for item in fields(self):
            object.__setattr__(self, item.name, check_setting(item.name, getattr(self, item.name), item.name))

    def record(self) -> dict[str, Any]:
        """What shapes every picture, without what depends on the machine or is told with each picture."""
        others = ("width", "height", "person_width", "base_ratio", "batch_size", "strength", "control_scale")
        return {name: value for name, value in asdict(self).items() if name not in others}

    def with_overrides(self, **changes: Any) -> Settings:
        """The same settings with those changes that are not None."""
        return replace(self, **{name: value for name, value in changes.items() if value is not None})


_RANGES: Mapping[str, tuple[int, int]] = {
    "steps": (1, 500),  # beyond, schedulers repeat or leave out noise levels
    "guidance_scale": (0, 100),
    "guidance_stop": (0, 1),
    "scale": (0, 10),
    "merge_at": (0, 1),
    "strength": (0, 1),
    "control_scale": (0, 10),
    "width": (0, 8192),
    "height": (0, 8192),
    "person_width": (0, 1),
    "base_ratio": (0, 1),
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
    return int(value) if whole else float(value)  # 1 and 1.0 are one value, also in the record of a picture


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


def needed_settings(scheduler: str) -> Mapping[str, Any]:
    """What a scheduler needs of a call; nothing if it is none of `SAMPLERS`."""
    return SAMPLERS[scheduler].settings if scheduler in SAMPLERS else {}

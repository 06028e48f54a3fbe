"""What a training run of the adapter is told: one dataclass, read from a YAML recipe."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from consistentid.errors import InputError
from consistentid.training.stack.loop import Schedule

GROUPS = ("image_projection", "facial_encoder", "ip_layers", "lora")


@dataclass(frozen=True)
class TrainConfig:
    """A training run of the adapter.

    Attributes:
        schedule: steps, batch, learning rate, clipping, EMA, seed.
        spec: sizes of the adapter, fields of `AdapterSpec`.
        people: people whose pictures are learnt from.
        views: reference pictures a person.
        trained: which of `GROUPS` learn; the paper trains the first two, its released code all.
        localisation_weight: factor of the localisation loss.
        localisation_blocks: UNet blocks it looks at; by default those of the paper, see `AttentionRecorder`.
        background_masking: probability that the noise loss of a sample is taken on the person only.
        condition_dropout: probability that a sample sees no text and no identity.
        same_picture: probability that the reference is the picture to be drawn itself.
        fixed_sentence: probability of the adapter's fixed facial sentence instead of the caption's.
        text_only: probability of the plain prompt without facial sentence.
        timestep_power: above 1 favours timesteps of little noise, see `skewed_timesteps`.
    """

    schedule: Schedule
    spec: dict[str, Any] = field(default_factory=dict)
    people: int = 4000
    views: int = 2
    trained: tuple[str, ...] = GROUPS
    localisation_weight: float = 0.01
    localisation_blocks: list[str] | None = None
    background_masking: float = 0.5
    condition_dropout: float = 0.1
    same_picture: float = 0.1
    fixed_sentence: float = 0.5
    text_only: float = 0.1
    timestep_power: float = 1.0

    @classmethod
    def from_yaml(cls, path: Path) -> TrainConfig:
        """Read the section ``adapter`` of a recipe.

        Raises:
            InputError: not a recipe, or an unknown option.
        """
        try:
            values = dict(yaml.safe_load(path.read_text())["adapter"])
        except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
            raise InputError(f"{path}: not a recipe with a section 'adapter' ({error})") from error
        known = [f.name for f in fields(cls)]
        if unknown := sorted(set(values) - set(known)):
            raise InputError(f"{path}: unknown options {unknown} in 'adapter'; known are {', '.join(known)}")
        values["schedule"] = Schedule(**values["schedule"])
        values["trained"] = tuple(values.get("trained", GROUPS))
        if wrong := sorted(set(values["trained"]) - set(GROUPS)):
            raise InputError(f"{path}: cannot train {wrong}; choose among {', '.join(GROUPS)}")
        return cls(**values)

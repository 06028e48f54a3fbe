"""Recipes: one YAML file holds the sizes and schedules of every network of a preset."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from consistentid.errors import InputError
from consistentid.training.stack.loop import Schedule
from consistentid.training.stack.pictures import Pool, PoolSpec, open_pool


@dataclass(frozen=True)
class Section:
    """One network: the arguments of its class or config, its schedule, and options of its training."""

    network: dict[str, Any]
    schedule: Schedule
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Recipe:
    """A recipe file, and the cache in which its pictures lie."""

    path: Path
    cache: Path
    workers: int = 1

    @cached_property
    def content(self) -> dict[str, Any]:
        """The parsed file."""
        try:
            content = yaml.safe_load(self.path.read_text())
        except (OSError, yaml.YAMLError) as error:
            raise InputError(f"{self.path}: not a readable recipe ({error})") from error
        if not isinstance(content, dict):
            raise InputError(f"{self.path}: a recipe is a mapping of sections; see recipes/drawn.yaml")
        return content

    def section(self, name: str) -> Section:
        """The section of a network."""
        if name not in self.content:
            raise InputError(f"{self.path} has no section {name!r}; it has {', '.join(self.content)}")
        values = self.content[name]
        return Section(values.get("network", {}), Schedule(**values["schedule"]) if "schedule" in values else None, values.get("options", {}))

    def pool(self, split: str) -> Pool:
        """The pictures of a split."""
        spec = PoolSpec(split=split, size=self.content["size"], **self.content["pictures"][split])
        return open_pool(spec, self.cache, self.workers)

"""Recipes: one YAML file holds the sizes and schedules of every network of a preset."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from consistentid.drawn.pools import Pool, PoolSpec, open_pool
from consistentid.errors import InputError
from consistentid.training.recipe import build, load_recipe
from consistentid.training.schedule import Schedule


@dataclass(frozen=True)
class Section:
    """What a recipe says of one network."""

    where: str  # for errors
    values: dict[str, Any]

    @property
    def network(self) -> dict[str, Any]:
        """The arguments of its class or config."""
        return dict(self.values.get("network", {}))

    @property
    def options(self) -> dict[str, Any]:
        """Options of its training."""
        return dict(self.values.get("options", {}))

    @property
    def schedule(self) -> Schedule:
        """How long and how fast it learns."""
        if "schedule" not in self.values:
            raise InputError(f"{self.where}, has no schedule; give it at least steps, batch and lr")
        return build(Schedule, self.values["schedule"], f"{self.where}: schedule")


@dataclass(frozen=True)
class Recipe:
    """A recipe file, and the cache in which its pictures lie."""

    path: Path
    cache: Path
    workers: int = 1

    @cached_property
    def content(self) -> dict[str, Any]:
        """The parsed file."""
        return load_recipe(self.path)

    def section(self, name: str) -> Section:
        """The section of a network."""
        if name not in self.content:
            raise InputError(f"{self.path} has no section {name!r}; it has {', '.join(self.content)}")
        return Section(f"{self.path}, section {name!r}", self.content[name])

    def pool(self, split: str) -> Pool:
        """The pictures of a split."""
        spec = PoolSpec(split=split, size=self.content["size"], **self.content["pictures"][split])
        return open_pool(spec, self.cache, self.workers)

"""Recipes: one YAML file holds the sizes and schedules of every network of a preset."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from consistentid.drawn.pools import Pool, PoolSpec, open_pool
from consistentid.errors import InputError
from consistentid.files.config import Between, OneOf, build, check
from consistentid.training.precision import PRECISIONS
from consistentid.training.recipe import COMMON, Groups, load_recipe
from consistentid.training.schedule import Schedule, Share

Count = Annotated[int, Between(1)]


@dataclass(frozen=True)
class AutoencoderOptions:
    """Largest deviation of the ``noise`` on the latents, which have one of 1.

    ``init`` is the folder of another one, relative to the recipe, whose latents stay: the decoder learns on, and the
    encoder of the details besides, if there is one.
    """

    noise: Annotated[float, Between(0, 10)]
    init: Path | None = None


@dataclass(frozen=True)
class DecoderOptions:
    """Largest deviation of the ``noise`` on the latents; weights of the critic's ``features`` and of its judgement.

    ``layers`` are residual blocks of every level, where the decoder is to get more than it has. With the folder of a
    ``base``, ``redrawn_share`` of the latents are what its UNet makes of them and of noise, up to that of
    ``redrawn_from`` of all timesteps. ``identity`` is the weight of the faces' likeness to those drawn in the eyes of
    ``recognisers``, ONNX files. Paths are relative to the recipe.
    """

    noise: Annotated[float, Between(0, 10)]
    features: Annotated[float, Between(0)]
    adversarial: Annotated[float, Between(0)]
    layers: tuple[Count, ...] | None = None
    base: Path | None = None
    redrawn_share: Share = 0.5
    redrawn_from: Annotated[float, Between(0, 1, open=True)] = 0.4
    identity: Annotated[float, Between(0)] = 0.0
    recognisers: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        check(self)
        if self.identity and not self.recognisers:
            raise InputError("identity needs recognisers: ONNX files of those that are asked")


@dataclass(frozen=True)
class ClipOptions:
    """Size of the ``vocabulary``, which has every byte twice."""

    vocabulary: Annotated[int, Between(600)]


@dataclass(frozen=True)
class RecogniserOptions:
    """``views`` of each person in a batch; ``margin`` and ``scale`` of the ArcFace loss.

    ``init`` is the ONNX file of such a network to go on from, relative to the recipe.
    """

    views: Annotated[int, Between(2)]
    margin: Annotated[float, Between(0, 1.5)]
    scale: Annotated[float, Between(0, open=True)]
    init: Path | None = None


@dataclass(frozen=True)
class UNetOptions:
    """Share of texts that are left out, power that favours early timesteps, arguments of the noise ``scheduler``.

    ``face_weight`` is how much more the face weighs than all else: it is small, and the hardest to draw.
    ``scene_weight`` is the factor of the `SceneLoss`. With ``train_text_encoder`` the words learn along. ``init`` names
    the folder of a base to go on from, relative to the recipe.
    """

    text_dropout: Share
    scheduler: dict[str, Any]
    timestep_power: Annotated[float, Between(0, open=True)] = 1.0
    face_weight: Annotated[float, Between(0)] = 0.0
    scene_weight: Annotated[float, Between(0)] = 0.0
    train_text_encoder: bool = False
    init: Path | None = None


OPTIONS: Mapping[str, type] = {
    "autoencoder": AutoencoderOptions,
    "decoder": DecoderOptions,
    "clip": ClipOptions,
    "recogniser": RecogniserOptions,
    "teacher": RecogniserOptions,
    "judge": RecogniserOptions,
    "unet": UNetOptions,
}
"""Section -> what its ``options`` are; sections that are not here have none."""


@dataclass(frozen=True)
class Section:
    """What a recipe says of one network.

    Attributes:
        network: the arguments of its class or config, see `arguments`.
        options: of its training, see `OPTIONS`.
    """

    where: str  # for errors
    network: dict[str, Any]
    options: dict[str, Any]
    _schedule: Schedule | None

    @property
    def schedule(self) -> Schedule:
        """How long and how fast it learns."""
        if self._schedule is None:
            raise InputError(f"{self.where} has no schedule; give it at least steps, batch and lr")
        return self._schedule


@dataclass(frozen=True)
class _Section:
    network: dict[str, Any] = field(default_factory=dict)
    schedule: Schedule | None = None
    options: dict[str, Any] = field(default_factory=dict)


def arguments(kind: type, values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Values for a class, whose every name it knows: configurations of transformers take any without a word.

    Raises:
        InputError: it does not.
    """
    known = [x for x in inspect.signature(kind).parameters if x not in ("args", "kwargs", "self")]
    if unknown := sorted(set(values) - set(known)):
        raise InputError(f"{where} has unknown {', '.join(unknown)}; {kind.__name__} knows {', '.join(known)}")
    return dict(values)


@dataclass(frozen=True)
class Mixture:
    """Pictures of one person, and of several in a share of the batches; a batch is of one pool, so of one shape."""

    portraits: Pool
    groups: tuple[Pool, ...]
    share: float  # of the batches, together

    def batch(self, rows: NDArray[np.int64], seed: int) -> tuple[int, Pool, NDArray[np.int64]]:
        """The number of a batch's pool (0: portraits), the pool, and the rows in it, ascending.

        ``rows`` are of the portraits; where the seed calls for a batch of a pool of groups, others are drawn from that.
        """
        rng = np.random.default_rng((seed, 7))
        if not self.groups or rng.random() >= self.share:
            return 0, self.portraits, np.sort(rows)
        number = int(rng.integers(len(self.groups)))
        pool = self.groups[number]
        return number + 1, pool, np.sort(rng.integers(0, len(pool), len(rows)))

    @property
    def pools(self) -> tuple[Pool, ...]:
        """All of them, portraits first."""
        return (self.portraits, *self.groups)


@dataclass(frozen=True)
class _Common:
    size: Annotated[int, Between(16, 2048)]
    precision: Annotated[str, OneOf(PRECISIONS)] = "auto"
    compile: bool = False
    pictures: dict[str, dict[str, Any]] = field(default_factory=dict)
    groups: Groups = field(default_factory=Groups)


@dataclass(frozen=True)
class Recipe:
    """A recipe file, and the cache in which its pictures lie.

    Attributes:
        workers: processes that draw pictures; 1 for this one alone.
        changes: "section.option=value".
        ahead: processes beside each that trains, which prepare its batches; 0 for none.
    """

    path: Path
    cache: Path
    workers: int = 1
    changes: tuple[str, ...] = ()
    ahead: int = 0

    @cached_property
    def content(self) -> dict[str, Any]:
        """The parsed file."""
        return load_recipe(self.path, self.changes)

    @cached_property
    def _common(self) -> _Common:
        return build(_Common, {name: x for name, x in self.content.items() if name in COMMON}, str(self.path))

    @property
    def size(self) -> int:
        """Side of the pictures, pixels."""
        return self._common.size

    @property
    def precision(self) -> str:
        """See `consistentid.training.precision.resolve_precision`."""
        return self._common.precision

    @property
    def compile(self) -> bool:
        """Whether autoencoder and UNet learn compiled, which a GPU wins by and minutes are spent on."""
        return self._common.compile

    def section(self, name: str) -> Section:
        """The section of a network.

        Raises:
            InputError: there is none, or a part or an option of it is unknown, missing or wrong.
        """
        if name not in self.content:
            raise InputError(f"{self.path} has no section {name!r}; it has {', '.join(self.content)}")
        found = build(_Section, self.content[name] or {}, str(self.path), name)
        kind = OPTIONS.get(name)
        if kind is None and found.options:
            raise InputError(f"{self.path}: {name} has options, and none are known; leave them out")
        options = asdict(build(kind, found.options, str(self.path), f"{name}.options")) if kind else {}
        return Section(f"{self.path}: {name}", found.network, options, found.schedule)

    @property
    def splits(self) -> list[str]:
        """Those that have pictures."""
        return list(self._common.pictures)

    def pool(self, split: str) -> Pool:
        """The pictures of one person of a split, drawn first if they are not there yet."""
        pictures = self._common.pictures
        if split not in pictures:
            raise InputError(f"{self.path}: pictures has no {split}; give people and scenes, as in recipes/drawn.yaml")
        return self._open(split, pictures[split], f"pictures.{split}")

    def mixture(self, split: str) -> Mixture:
        """The pictures of a split, those of several people among them."""
        groups = self._common.groups
        listed: tuple[dict[str, Any], ...] = getattr(groups, split, ())
        pools = (self._open(split, values, f"groups.{split}.{i}") for i, values in enumerate(listed))
        return Mixture(self.pool(split), tuple(pools), groups.share)

    def _open(self, split: str, values: dict[str, Any], where: str) -> Pool:
        if fixed := {"split", "size"} & set(values):
            raise InputError(f"{self.path}: {where} has {min(fixed)}, which stands elsewhere; leave it out")
        spec = build(PoolSpec, {"split": split, "size": self.size, **values}, str(self.path), where)
        return open_pool(spec, self.cache, self.workers)

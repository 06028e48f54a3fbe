"""What a training run of the adapter is told: the section ``adapter`` of a recipe, typed and checked."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any

from consistentid.adapter.spec import AdapterSpec
from consistentid.drawn.pools import PoolSpec
from consistentid.drawn.scene_reader import FACTORS
from consistentid.errors import InputError
from consistentid.files.config import Between, OneOf, PathOrName, build, check
from consistentid.pipeline.request import Request
from consistentid.presets.read import preset_names
from consistentid.training.precision import PRECISIONS
from consistentid.training.recipe import ADAPTER, Groups, load_recipe
from consistentid.training.schedule import Schedule, Share

GROUPS = ("image_projection", "facial_encoder", "ip_layers", "lora", "unet")
"""What can be trained: the adapter's four groups of parameters, and the base's UNet along with them."""

CACHEABLE = ("latents", "text", "references")
PRESETS_OWN = "preset"
"""The initial weights of this name are the adapter of the recipe's preset."""

OPTIMISERS = ("adamw", "adamw8bit")

Count = Annotated[int, Between(1)]
Amount = Annotated[float, Between(0)]


@dataclass(frozen=True)
class Checkpoints:
    """When the state is saved.

    Attributes:
        every: steps between two checkpoints; the last step and a stop always save one.
        keep: how many of the newest stay.
    """

    every: Count = 500
    keep: Count = 2

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class Log:
    """What is written of the losses.

    Attributes:
        every: steps between two lines of the console and of ``log.jsonl``, which hold means over these steps.
        tensorboard: write them for TensorBoard too.
    """

    every: Count = 20
    tensorboard: bool = False

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class Validation:
    """Pictures of the same people and prompts, with the attention of the facial words, made during training.

    Attributes:
        every: steps between two sheets; 0 for none.
        references: pictures of one person each; paths are relative to the recipe.
        prompts: each is drawn for each person.
        steps, guidance_scale, seed: of the sampling.
    """

    every: Annotated[int, Between(0)] = 0
    references: tuple[Path, ...] = ()
    prompts: tuple[str, ...] = ("a portrait of a person",)
    steps: Annotated[int, Between(1, 500)] = 20
    guidance_scale: Annotated[float, Between(0, 100)] = 4.0
    seed: Annotated[int, Between(0, 2**63 - 1)] = 0

    def __post_init__(self) -> None:
        check(self)
        if self.every and not (self.references and self.prompts):
            raise InputError("validation needs references and prompts; name some, or set every to 0")
        if self.every:  # refused now, not after hours of training
            Request(
                prompt=self.prompts,
                seed=self.seed,
                num_inference_steps=self.steps,
                guidance_scale=self.guidance_scale,
            )


@dataclass(frozen=True)
class _Pictures:
    train: dict[str, Any] | None = None
    validation: dict[str, Any] | None = None
    test: dict[str, Any] | None = None


@dataclass(frozen=True)
class _Common:
    """What stands beside the sections of a recipe."""

    size: int
    pictures: _Pictures = field(default_factory=_Pictures)
    groups: Groups = field(default_factory=Groups)


@dataclass(frozen=True)
class TrainConfig:
    """A training run of the adapter.

    Attributes:
        schedule: steps, batch (of all processes together), learning rate, clipping, EMA, seed.
        size: side of the training pictures, pixels.
        preset: name or file of the preset whose base, image encoder and face networks are used.
        networks: other networks in their place, as role: path or hub id.
        spec: sizes of the adapter, fields of `AdapterSpec`.
        init: weights to start from: an adapter in any layout that `ConsistentID.from_pretrained` reads, or an
            IP-Adapter-FaceID-Plus; a file, a folder, a hub id, owner/name/file of the hub, or "preset" for the
            preset's own. Fresh ones by default.
        trained: which of `GROUPS` learn; the paper trains the first two, its released code the first four.

        people: people whose pictures are learnt from; 0 for all.
        views: pictures of each person that serve as references.
        same_picture: probability that the reference is the picture to be drawn itself; it always is for a person who
            has no other.
        anonymous_caption: probability that a drawing's caption calls the person a person, as users' prompts do, and
            leaves sex, age and hair to the reference.
        fixed_sentence: probability of the adapter's fixed facial sentence instead of the data's.
        text_only: probability of the plain prompt without facial sentence.
        condition_dropout: probability that a sample sees no text and no identity, as under guidance at inference.
        id_dropout: probability that a sample sees no ID tokens, but what words and pictures tell of the parts.
        base_share: share of steps in which the base alone learns from text, so that it stays a text-to-image model;
            only with ``unet`` among the trained.
        sampled_share: share of steps in which identity and scene loss judge pictures that the model samples itself,
            with `sampled_steps` predictions from a training picture with the noise of ``sampled_from`` of all
            timesteps. There is no noise loss then, and the preset's detector says where the face is.
        company_share: share of steps in which the adapter learns pictures of several people, of `groups`: each in a
            strip of the picture, by what `ConsistentID.inputs` feeds with regions.
        id_scale: strength of the ID tokens; 0 trains without them, then neither image_projection nor ip_layers learn.

        background_masking: probability that the noise loss of a sample is taken on the person only.
        face_weight: extra weight of the face in the noise loss.
        localisation_weight: factor of the localisation loss.
        localisation_blocks: UNet blocks it looks at; by default those of the paper, see `AttentionRecorder`.
        identity_weight: factor of the `IdentityLoss`. It needs landmarks, and memory for the decoder of the latents.
        identity_start: share of the steps after which it is asked; before, a step costs no decoder and no recogniser.
        identity_recognisers: ONNX files of the recognisers that it asks; by default the preset's own. What the one
            that conditions the adapter sees in a face is soon learnt; others see more.
        scene_weight: factor of the `SceneLoss`, for drawn pictures: whether the picture shows what words ask for.
        scene_factors: what single ones of its `FACTORS` weigh, 1 by default; a factor that is 0 is not asked.
        latent_reader: ONNX file of the network that it asks.
        distilled_recogniser: ONNX file of the recogniser that the initial weights know, to move them to the preset's:
            nothing is drawn, the image projection alone learns, to make of the preset's embedding of a picture the ID
            tokens that the initial weights make of that recogniser's.
        timestep_power: above 1 favours timesteps of little noise: t = T u^power with u uniform.
        min_snr: gamma of the min-SNR weighting of the noise loss; 0 for none.
        change_kept: what is published of the change since the run began, as part of a weight's name: share; of several
            parts that fit the least counts, and where none does all is kept. Averages of weights before and after are
            often better than either (Wortsman et al. 2022, "Robust fine-tuning of zero-shot models"). Names are those
            on disk, behind "adapter." or "unet."; training itself goes on from what it learnt.

        optimiser: one of `OPTIMISERS`.
        accumulate: parts that a process computes its share of the batch in.
        precision: one of `PRECISIONS`: "auto" takes bfloat16 where this machine is quicker at it, which is measured at
            the start. Trained weights are float32 in either.
        gradient_checkpointing: less memory for the UNet, more computing.
        cache: which outputs of frozen networks are kept on disk, of `CACHEABLE`; the others are computed every time.
        workers: processes that read pictures ahead; 0 for none.
        checkpoints, log, validation: what is written during the run.
        pictures: the drawn pictures to learn from where no data set is named: people, scenes, split, first, seed.
        exchanges: besides them a pool of pictures of the same people, each with one part of the face of another of
            them: the identity is the person's, the part's picture or words the other's. So words and pictures of a
            part are what a part follows, also against the ID tokens. All people that are learnt from, unless it says
            how many.
        exchange_share: share of the samples that show those.
        exchange_weight: extra weight of the exchanged part in the noise loss, for it is small, and in the scene loss.
        groups: besides them pools of drawn pictures of several people: each step of the base alone is on portraits or
            on one of these, each equally often, and each of `company_share` on one of these.
    """

    schedule: Schedule
    size: Annotated[int, Between(16, 8192)]
    preset: Annotated[str, PathOrName(names=tuple(preset_names()))] = "drawn"
    networks: dict[str, Annotated[str, PathOrName()]] = field(default_factory=dict)
    spec: dict[str, Any] = field(default_factory=dict)
    init: Annotated[str, PathOrName(names=(PRESETS_OWN,))] | None = None
    trained: tuple[Annotated[str, OneOf(GROUPS)], ...] = GROUPS[:4]

    people: Annotated[int, Between(0)] = 0
    views: Count = 2
    same_picture: Share = 0.1
    anonymous_caption: Share = 0.0
    fixed_sentence: Share = 0.5
    text_only: Share = 0.1
    condition_dropout: Share = 0.1
    id_dropout: Share = 0.0
    base_share: Share = 0.0
    company_share: Share = 0.0
    sampled_share: Share = 0.0
    sampled_steps: Count = 4
    sampled_from: Annotated[float, Between(0, 1, open=True)] = 0.7
    id_scale: Annotated[float, Between(0, 10)] = 1.0

    background_masking: Share = 0.5
    face_weight: Amount = 0.0
    localisation_weight: Amount = 0.01
    localisation_blocks: tuple[str, ...] | None = None
    identity_weight: Amount = 0.0
    identity_start: Share = 0.0
    identity_recognisers: tuple[Path, ...] = ()
    scene_weight: Amount = 0.0
    scene_factors: dict[str, Amount] = field(default_factory=dict)
    latent_reader: Path | None = None
    distilled_recogniser: Path | None = None
    timestep_power: Annotated[float, Between(0, open=True)] = 1.0
    min_snr: Amount = 0.0
    change_kept: dict[str, Share] = field(default_factory=dict)

    optimiser: Annotated[str, OneOf(OPTIMISERS)] = "adamw"
    accumulate: Count = 1
    precision: Annotated[str, OneOf(PRECISIONS)] = "float32"
    gradient_checkpointing: bool = False
    cache: tuple[Annotated[str, OneOf(CACHEABLE)], ...] = ("latents", "references")
    workers: Annotated[int, Between(0, 1024)] = 0
    checkpoints: Checkpoints = field(default_factory=Checkpoints)
    log: Log = field(default_factory=Log)
    validation: Validation = field(default_factory=Validation)
    pictures: dict[str, Any] | None = None
    exchanges: dict[str, Any] | None = None
    exchange_share: Share = 0.0
    exchange_weight: Amount = 0.0
    groups: tuple[dict[str, Any], ...] = ()

    def __post_init__(self) -> None:
        check(self)
        known = [x.name for x in fields(AdapterSpec)]
        if unknown := sorted(set(self.spec) - set(known)):
            raise InputError(f"spec has unknown options {', '.join(unknown)}; known are {', '.join(known)}")
        # What is wrong with them is told now, though they may not be needed.
        _ = self.drawn, self.drawn_exchanges, self.drawn_groups
        if self.exchange_share and self.exchanges is None:
            raise InputError("exchange_share needs exchanges: people and scenes of the pictures with exchanged parts")
        if self.scene_weight and self.latent_reader is None:
            raise InputError("scene_weight needs latent_reader: an ONNX file of the network that its loss asks")
        if unknown := sorted(set(self.scene_factors) - set(FACTORS)):
            raise InputError(f"scene_factors has unknown {', '.join(unknown)}; known are {', '.join(FACTORS)}")
        if not self.trained:
            raise InputError(f"trained is empty; choose among {', '.join(GROUPS)}")
        if self.id_scale == 0 and {"image_projection", "ip_layers"} & set(self.trained):
            raise InputError("with id_scale 0 there are no ID tokens; leave image_projection and ip_layers untrained")
        if self.base_share and "unet" not in self.trained:
            raise InputError("base_share needs unet among the trained")
        if self.sampled_share and not (self.identity_weight or self.scene_weight):
            raise InputError("sampled_share needs identity_weight or scene_weight: no other loss judges such pictures")
        if self.company_share and not self.groups:
            raise InputError("company_share needs groups: pools of drawn pictures of several people")
        if self.base_share + self.company_share + self.sampled_share > 1:
            raise InputError(
                "base_share, company_share and sampled_share are shares of the same steps: together at most 1"
            )
        if self.distilled_recogniser:
            if self.trained != ("image_projection",):
                raise InputError(
                    "distilled_recogniser teaches the image projection alone, and trained is"
                    f" {', '.join(self.trained)}; set it to [image_projection]"
                )
            if self.init is None:
                raise InputError("distilled_recogniser needs init: the weights that know that recogniser")
            for name in ("identity_weight", "scene_weight", "company_share"):
                if getattr(self, name):
                    raise InputError(f"distilled_recogniser draws nothing, so {name} must be 0")

    @property
    def asked_recognisers(self) -> tuple[Path, ...]:
        """Recognisers beside the preset's that are asked about references."""
        if self.distilled_recogniser:
            return (self.distilled_recogniser,)
        return self.identity_recognisers if self.identity_weight else ()

    @property
    def drawn(self) -> PoolSpec | None:
        """The pool of `pictures`, if there are any."""
        return None if self.pictures is None else self._pool(self.pictures, "pictures.train")

    @property
    def drawn_exchanges(self) -> PoolSpec | None:
        """The pool of `exchanges`, if there is one; of the people of `drawn`."""
        if self.exchanges is None:
            return None
        people = self.drawn
        everyone = {"people": self.people or people.people} if people else {}
        found = self._pool({**everyone, **self.exchanges, "exchanged": True}, f"{ADAPTER}.exchanges")
        if people is None or _numbering(found) != _numbering(people):
            raise InputError("exchanges are pictures of the drawn people of pictures: leave split, seed and first out")
        if found.people > (self.people or people.people):
            raise InputError(f"exchanges: {found.people} people, and {self.people or people.people} are learnt from")
        return found

    @property
    def drawn_groups(self) -> list[PoolSpec]:
        """The pools of `groups`; those of `company_share` of the people of `drawn`."""
        found = [self._pool(group, f"groups.train.{number}") for number, group in enumerate(self.groups)]
        if (people := self.drawn) is None or not self.company_share:
            return found
        learnt = self.people or people.people
        for pool in found:
            if _numbering(pool) != _numbering(people) or pool.people > learnt:
                raise InputError(
                    f"company_share: groups are pictures of the drawn people of pictures, of whom {learnt} are learnt"
                    " from; leave split, seed and first out, and take no more of them"
                )
            if pool.together == 1:
                raise InputError("company_share: a pool of groups has one person a picture; set its together to 2 or 3")
        return found

    def _pool(self, values: dict[str, Any], where: str) -> PoolSpec:
        return build(PoolSpec, {"size": self.size, **values}, "", where)

    @classmethod
    def from_yaml(cls, path: Path, changes: tuple[str, ...] = ()) -> TrainConfig:
        """Read a recipe's section ``adapter``, its ``size`` and the training pictures of ``pictures`` and ``groups``.

        Args:
            path: YAML file; paths in it are relative to its folder.
            changes: see `load_recipe`.

        Raises:
            InputError: not a recipe, an unknown option, or a value that is not allowed.
        """
        shared = ("size", "pictures", "groups")
        content = load_recipe(path, changes, reads=(*shared, ADAPTER))
        if ADAPTER not in content:
            raise InputError(f"{path} has no section {ADAPTER!r}; it has {', '.join(content)}")
        common = build(_Common, {name: content[name] for name in shared if name in content}, str(path))
        section = content[ADAPTER] or {}
        if isinstance(section, dict):
            drawn = {"pictures": common.pictures.train, "groups": common.groups.train}
            section = {"size": common.size, **drawn, **section}
        return build(cls, section, str(path), ADAPTER)

    def to_dict(self) -> dict[str, Any]:
        """Values of JSON, as a recipe's section ``adapter`` would hold them."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self), default=str))
        return values


def _numbering(pool: PoolSpec) -> tuple[str, int, int]:
    """Where two pools have it in common, a number is the same person in both."""
    return pool.split, pool.seed, pool.first

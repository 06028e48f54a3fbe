"""What a training run of the adapter is told: the section ``adapter`` of a recipe, typed and checked."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from consistentid.errors import InputError
from consistentid.pipeline.request import Request
from consistentid.training.recipe import build, load_recipe
from consistentid.training.schedule import Schedule

GROUPS = ("image_projection", "facial_encoder", "ip_layers", "lora", "unet")
"""What can be trained: the adapter's four groups of parameters, and the base's UNet along with them."""

CACHEABLE = ("latents", "text", "references")
OPTIMISERS = ("adamw", "adamw8bit")
PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True)
class Checkpoints:
    """When the state is saved.

    Attributes:
        every: steps between two checkpoints; the last step and a stop always save one.
        keep: how many of the newest stay.
    """

    every: int = 500
    keep: int = 2


@dataclass(frozen=True)
class Log:
    """What is written of the losses.

    Attributes:
        every: steps between two lines of the console and of ``log.jsonl``, which hold means over these steps.
        tensorboard: write them for TensorBoard too.
    """

    every: int = 20
    tensorboard: bool = False


@dataclass(frozen=True)
class Validation:
    """Pictures of the same people and prompts, with the attention of the facial words, made during training.

    Attributes:
        every: steps between two sheets; 0 for none.
        references: pictures of one person each; paths are relative to the recipe.
        prompts: each is drawn for each person.
        steps, guidance_scale, seed: of the sampling.
    """

    every: int = 0
    references: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ("a portrait of a person",)
    steps: int = 20
    guidance_scale: float = 4.0
    seed: int = 0

    def __post_init__(self) -> None:
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
        fixed_sentence: probability of the adapter's fixed facial sentence instead of the data's.
        text_only: probability of the plain prompt without facial sentence.
        condition_dropout: probability that a sample sees no text and no identity, as under guidance at inference.
        base_share: share of steps in which the base alone learns from text, so that it stays a text-to-image model;
            only with ``unet`` among the trained.
        id_scale: strength of the ID tokens; 0 trains without them, then neither image_projection nor ip_layers learn.

        background_masking: probability that the noise loss of a sample is taken on the person only.
        face_weight: extra weight of the face in the noise loss.
        localisation_weight: factor of the localisation loss.
        localisation_blocks: UNet blocks it looks at; by default those of the paper, see `AttentionRecorder`.
        identity_weight: factor of the `IdentityLoss`. It needs landmarks, and memory for the decoder of the latents.
        identity_recognisers: ONNX files of the recognisers that it asks; by default the preset's own. What the one
            that conditions the adapter sees in a face is soon learnt; others see more.
        timestep_power: above 1 favours timesteps of little noise: t = T u^power with u uniform.
        min_snr: gamma of the min-SNR weighting of the noise loss; 0 for none.

        optimiser: one of `OPTIMISERS`.
        accumulate: parts that a process computes its share of the batch in.
        precision: one of `PRECISIONS`; trained weights are float32 in either.
        gradient_checkpointing: less memory for the UNet, more computing.
        cache: which outputs of frozen networks are kept on disk, of `CACHEABLE`; the others are computed every time.
        workers: processes that read pictures ahead; 0 for none.
        checkpoints, log, validation: what is written during the run.
        pictures: the drawn pictures to learn from where no data set is named: people, scenes, split, first, seed.
    """

    schedule: Schedule
    size: int
    preset: str = "drawn"
    networks: dict[str, Any] = field(default_factory=dict)
    spec: dict[str, Any] = field(default_factory=dict)
    init: str | None = None
    trained: tuple[str, ...] = GROUPS[:4]

    people: int = 0
    views: int = 2
    same_picture: float = 0.1
    fixed_sentence: float = 0.5
    text_only: float = 0.1
    condition_dropout: float = 0.1
    base_share: float = 0.0
    id_scale: float = 1.0

    background_masking: float = 0.5
    face_weight: float = 0.0
    localisation_weight: float = 0.01
    localisation_blocks: tuple[str, ...] | None = None
    identity_weight: float = 0.0
    identity_recognisers: tuple[str, ...] = ()
    timestep_power: float = 1.0
    min_snr: float = 0.0

    optimiser: str = "adamw"
    accumulate: int = 1
    precision: str = "float32"
    gradient_checkpointing: bool = False
    cache: tuple[str, ...] = ("latents", "references")
    workers: int = 0
    checkpoints: Checkpoints = field(default_factory=Checkpoints)
    log: Log = field(default_factory=Log)
    validation: Validation = field(default_factory=Validation)
    pictures: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        shares = ("same_picture", "fixed_sentence", "text_only", "condition_dropout", "base_share")
        for name in (*shares, "background_masking"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} is {getattr(self, name)}; a probability is from 0 to 1")
        for name in ("face_weight", "localisation_weight", "identity_weight", "min_snr", "people", "workers"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} is {getattr(self, name)}; give 0 or more")
        for name in ("size", "views", "accumulate", "timestep_power"):
            if getattr(self, name) <= 0:
                raise InputError(f"{name} is {getattr(self, name)}; give more than 0")
        choices = {"trained": GROUPS, "cache": CACHEABLE, "optimiser": OPTIMISERS, "precision": PRECISIONS}
        for name, known in choices.items():
            given = getattr(self, name)
            if wrong := [x for x in ([given] if isinstance(given, str) else given) if x not in known]:
                raise InputError(f"{name} has {', '.join(wrong)}; choose among {', '.join(known)}")
        if not self.trained:
            raise InputError(f"trained is empty; choose among {', '.join(GROUPS)}")
        if self.id_scale == 0 and {"image_projection", "ip_layers"} & set(self.trained):
            raise InputError("with id_scale 0 there are no ID tokens; leave image_projection and ip_layers untrained")
        if self.base_share and "unet" not in self.trained:
            raise InputError("base_share needs unet among the trained")

    @classmethod
    def from_yaml(cls, path: Path, changes: tuple[str, ...] = ()) -> TrainConfig:
        """Read a recipe's section ``adapter``, its ``size`` and the training pictures of its ``pictures``.

        Args:
            path: YAML file; paths in it are relative to its folder.
            changes: see `load_recipe`.

        Raises:
            InputError: not a recipe, an unknown option, or a value that is not allowed.
        """
        content = load_recipe(path, changes)
        if "adapter" not in content:
            raise InputError(f"{path} has no section 'adapter'; it has {', '.join(content)}")
        values = {"size": content.get("size"), "pictures": (content.get("pictures") or {}).get("train")}
        config = build(cls, {**values, **(content["adapter"] or {})}, f"{path}: adapter")
        folder = path.parent
        references = tuple(str(folder / name) for name in config.validation.references)
        return replace(config, validation=replace(config.validation, references=references))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as a recipe's section ``adapter`` would hold them."""
        return asdict(self)

"""Training examples: what a sample of a step is, and the batch of tensors that the losses take.

A sample is a pure function of the seed, the step and its place in the step's batch, so neither the number of processes
and workers nor an interruption changes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.utils import data

from consistentid.adapter.adapter import ConsistentID
from consistentid.adapter.prompt import FacialText, compose, facial_sentence, fitting
from consistentid.adapter.spec import AdapterSpec
from consistentid.adapter.text import in_rows
from consistentid.drawn.pools import pixels
from consistentid.drawn.scene_reader import FACTORS
from consistentid.faces.parts import PARTS, largest_square, part_masks, part_pictures, whole_picture
from consistentid.training.cache import Cache
from consistentid.training.config import TrainConfig
from consistentid.training.frozen import FrozenNetworks, Preparation
from consistentid.training.scenes import Asked, told
from consistentid.training.schedule import batch_indices
from consistentid.training.sources import Exchange, Picture, Source

FACE_LABELS = tuple(range(1, 14))
"""What `face_weight` weighs: everything of the head but neck, hair and hat."""

TARGET = ("masks", "person", "face", "landmarks")
"""What is known of a picture to be drawn: see `target_masks`, and (5, 2) pixels, not numbers if there are none."""

REFERENCE = ("embedding", "wanted", "seen")
"""What is known of a reference: its embeddings (D,) and (K, D), and which parts are seen (N,) bool."""

WORDINGS = 16
"""Captions of one picture, where they are worded anew; few enough to be kept as text features."""

Place = tuple[int, int, int]
"""(step, place in the step's batch, picture)."""


@dataclass(frozen=True, eq=False)
class Example:
    """One sample; what frozen networks are still to compute is there as their input.

    Attributes:
        key: names it.
        step: of the training.
        row: number of the picture to be drawn.
        reference_rows: number of a picture of each person on it, from left to right; of no account where the base
            learns alone.
        prompt: what the picture shows.
        faces: what is said of each person's face; empty where nothing is known.
        dropped: whether it sees no text and no identity.
        nameless: whether it sees no ID tokens.
        whole: whether the noise loss counts the background, too.
        sentence: uniform number that chooses the facial sentence.
        time: uniform number that chooses the timestep.
        noise: (C, h, w).
        target: `TARGET`, and "pixels" (1, 3, H, W) or "output", the latents.
        landmarks: (P, 5, 2) of the people, see `TARGET`.
        references: of each person `REFERENCE`, and of the whole and the parts seen "pixels" (n, 3, S, S) or "output",
            the features (n, L, clip_dim).
        exchange: the part that is somebody else's, if one is.
        other: `reference` of that other person, where their part is shown to the adapter.
        worded: whether the text tells that part.
        shown: (F,) long, what the picture shows of each factor of `FACTORS`; None where no loss asks.
    """

    key: str
    step: int
    row: int
    reference_rows: tuple[int, ...]
    prompt: str
    faces: tuple[str, ...]
    dropped: bool
    nameless: bool
    whole: bool
    sentence: float
    time: float
    noise: Tensor
    target: dict[str, Tensor]
    landmarks: Tensor
    references: tuple[dict[str, Tensor], ...]
    exchange: Exchange | None = None
    other: dict[str, Tensor] | None = None
    worded: bool = False
    shown: Tensor | None = None

    def seen(self, person: int) -> list[str]:
        """Parts of a person of which there are pictures."""
        seen = self.references[person]["seen"]
        seen = seen if self.other is None else seen | self._others
        return [part for part, mask in zip(PARTS, seen.tolist(), strict=True) if mask]

    @property
    def _others(self) -> Tensor:
        """(N,) bool: which part is another's."""
        return torch.tensor([self.exchange is not None and part == self.exchange.part for part in PARTS])

    @property
    def exchanged_mask(self) -> Tensor:
        """(1, h, w): how much of each position is that part."""
        return (self.target["masks"] * self._others[:, None, None]).amax(0, keepdim=True)


@dataclass(frozen=True, eq=False)
class Batch:
    """What the losses take, B samples of P people each.

    With several people, each is in a strip of the picture, and there is a text of the scene before those of the people:
    S = P + 1 texts a sample, else one.

    Attributes:
        base: whether the base alone learns from text, without the adapter.
        sampled: whether the model samples pictures itself, from these latents with much noise.
        latents, noise: (B, C, h, w).
        time: (B,) in [0, 1).
        text: (B, S, T, D); pooled: (B, E) of the first, SDXL only.
        parts, token_mask, part_mask: of all B * S texts, for `ConsistentID.fuse`.
        positions: (B, N) long, the token that names each part in the first text; used: (B, N) bool, whether there is
            one.
        embedding: (B, P, id_dim); face: (B, P, L, clip_dim).
        masks: (B, N, h, w), where each part is in the picture; weight: (B, 1, h, w), of the noise loss.
        landmarks: (B, P, 5, 2), pixels of the picture, not numbers where they are not known.
        wanted: (B, P, K, D), what each of the K recognisers that a loss asks sees on the references.
        asked: what the `SceneLoss` asks of the pictures; None where there is none.
    """

    base: bool
    sampled: bool
    latents: Tensor
    noise: Tensor
    time: Tensor
    text: Tensor
    pooled: Tensor | None
    parts: Tensor
    token_mask: Tensor
    part_mask: Tensor
    positions: Tensor
    used: Tensor
    embedding: Tensor
    face: Tensor
    masks: Tensor
    weight: Tensor
    landmarks: Tensor
    wanted: Tensor
    asked: Asked | None = None

    @property
    def people(self) -> int:
        """How many are on each picture."""
        return self.embedding.shape[1]

    def to(self, device: torch.device) -> Self:
        """The same on a device."""
        moved: dict[str, Any] = {
            field.name: x.to(device)
            for field in fields(self)
            if isinstance(x := getattr(self, field.name), Tensor | Asked)
        }
        return replace(self, **moved)


class Samples(data.Dataset[Example]):
    """Samples by `Place`, for a `DataLoader`, whose workers read and prepare pictures; they are sent all of this.

    Args:
        config: the recipe.
        source: of the pictures.
        preparation: of references.
        spec: how parts are cut out.
        channels, reduction: of latents, and how many pixels of a side are one of theirs.
        latents, references: where what frozen networks gave is kept.
    """

    def __init__(
        self,
        config: TrainConfig,
        source: Source,
        preparation: Preparation,
        spec: AdapterSpec,
        channels: int,
        reduction: int,
        latents: Cache | None,
        references: Cache | None,
    ) -> None:
        self.config, self.source, self.preparation, self.spec = config, source, preparation, spec
        self.channels, self.reduction, self._latents, self._references = channels, reduction, latents, references

    def __getitem__(self, place: Place) -> Example:
        step, index, row = place
        config = self.config
        rng = np.random.default_rng((config.schedule.seed, step, 1 + index))
        dropped, whole, same, other, wording, sentence, time = rng.random(7)
        base, company, worded = learns_base(config, step), learns_company(config, step), int(wording * WORDINGS)
        reference = row
        others = [x for x in self.source.of_person(row)[: config.views] if x != row]
        if others and same >= config.same_picture:
            reference = others[int(other * len(others))]
        row = self._shown(step, index, row, base=base, company=company)

        def more(number: int, count: int) -> NDArray[np.float64]:
            """Further uniform numbers, which leave the others as they were."""
            return np.random.default_rng((config.schedule.seed, step, 1 + index, number)).random(count)

        exchanged, way = more(1, 2)
        [nameless], [unnamed] = more(2, 1), more(3, 1)
        exchange, theirs = None, None
        if exchanged < config.exchange_share and not base and not company:
            rows = self.source.exchanges()
            row = rows[row % len(rows)]
            exchange = self.source.exchange(row)
            reference = exchange.own
            theirs = self._reference(exchange.other) if way < 2 / 3 else None
            if theirs and not theirs["seen"][PARTS.index(exchange.part)]:
                theirs = None
        target = self._target(row)
        told = self.source.caption(row, worded, anonymous=bool(unnamed < config.anonymous_caption) and not base)
        references: tuple[int, ...] = (reference,)
        faces: tuple[str, ...] = (told.face,)
        landmarks = target["landmarks"][None]
        if company:
            members = self.source.members(row, worded)
            views = [member.portraits[: config.views] for member in members]
            chosen = zip(views, more(4, len(views)), strict=True)
            references = tuple(rows[int(u * len(rows))] for rows, u in chosen)
            faces = tuple(member.face for member in members)
            landmarks = torch.from_numpy(np.stack([member.landmarks for member in members]))
        noise = rng.standard_normal((self.channels, *target["masks"].shape[1:]), np.float32)
        return Example(
            key=self.source.key(row),
            step=step,
            row=row,
            reference_rows=references,
            prompt=told.image,
            faces=faces,
            dropped=bool(dropped < config.condition_dropout),
            nameless=bool(nameless < config.id_dropout),
            whole=bool(whole >= config.background_masking),
            sentence=sentence,
            time=time,
            noise=torch.from_numpy(noise),
            target=target,
            landmarks=landmarks,
            references=tuple(self._reference(x) for x in references),
            exchange=exchange,
            other=theirs,
            worded=exchange is not None and (theirs is None or way >= 1 / 3),
            shown=torch.from_numpy(self.source.shown(row)) if config.scene_weight else None,
        )

    def _shown(self, step: int, index: int, row: int, *, base: bool, company: bool) -> int:
        """The picture to be drawn: another one where several people are learnt from, or the base alone may be."""
        groups, seed = self.source.groups(), self.config.schedule.seed
        if not groups or not (company or base):
            return row
        # the same for all of the step
        number = np.random.default_rng((seed, step, 0, 0)).integers(int(company), len(groups) + 1)
        if number == 0:
            return row
        rows = groups[int(number) - 1]
        return rows[int(np.random.default_rng((seed, step, 0, 1 + index)).integers(len(rows)))]

    def _target(self, row: int) -> dict[str, Tensor]:
        if self._latents and (kept := self._latents.read(self.source.version(row))):
            return kept
        picture = self.source[row]
        if not any(row in rows for rows in self.source.groups()):
            picture = framed(picture, self.config.size)
        marks = np.full((5, 2), np.nan, np.float32) if picture.landmarks is None else picture.landmarks
        height, width = (side // self.reduction for side in picture.labels.shape)
        return target_masks(picture.labels, (height, width)) | {
            "landmarks": torch.from_numpy(marks),
            "pixels": pixels(picture.pixels[None], torch.device("cpu")),
        }

    def _reference(self, row: int) -> dict[str, Tensor]:
        if self._references and (kept := self._references.read(self.source.version(row))):
            return kept
        picture = self.source[row]
        image = Image.fromarray(picture.pixels)
        cut = part_pictures(image, picture.labels, self.spec.part_layout, self.spec.canvas_size)
        whole = whole_picture(image, face_box(picture.labels), self.spec.part_layout)
        return {
            "embedding": self.preparation.embedding(picture, self.source.key(row)),
            "wanted": self.preparation.wanted(picture, self.source.key(row)),
            "seen": torch.tensor([part in cut for part in PARTS]),
            "pixels": self.preparation.preprocessed([whole, *cut.values()]),
        }


class Examples:
    """The samples of a training, and the batches that frozen networks make of them.

    Attributes:
        samples: by `Place`.
    """

    def __init__(self, config: TrainConfig, source: Source, frozen: FrozenNetworks, spec: AdapterSpec) -> None:
        self.config, self.source, self.frozen, self.spec = config, source, frozen, spec
        self._kept = (
            frozen.cache("latents", config.size, *TARGET),
            frozen.cache("references", spec.part_layout, spec.canvas_size, *REFERENCE),
        )
        channels, reduction = frozen.pipe.unet.config.in_channels, frozen.pipe.vae_scale_factor
        self.samples = Samples(config, source, frozen.preparation, spec, channels, reduction, *self._kept)

    def __getitem__(self, place: Place) -> Example:
        return self.samples[place]

    def _outputs(
        self,
        found: Sequence[dict[str, Tensor]],
        rows: Sequence[int],
        cache: Cache | None,
        compute: Callable[[Tensor], Tensor],
    ) -> list[Tensor]:
        """What a frozen network says of each sample's pixels; it is kept where there is a cache."""
        if cache is None:
            sizes = [len(x["pixels"]) for x in found]
            return list(torch.split(compute(torch.cat([x["pixels"] for x in found])), sizes))
        for x, row in zip(found, rows, strict=True):
            if "output" not in x:  # one at a time, so that what is kept never depends on its neighbours in a batch
                x["output"] = compute(x.pop("pixels"))
                cache.write(self.source.version(row), x)
        return [x["output"] for x in found]

    def batch(self, examples: Sequence[Example]) -> Batch:
        """The tensors of samples of one step, with what frozen networks say of them."""
        config, frozen = self.config, self.frozen
        latents_kept, references_kept = self._kept
        base = learns_base(config, examples[0].step)
        size = len(examples), len(examples[0].references)  # B, P
        targets, references = [x.target for x in examples], [y for x in examples for y in x.references]
        latents = self._outputs(targets, [x.row for x in examples], latents_kept, frozen.latents)
        rows = [row for x in examples for row in x.reference_rows]
        face, parts = self._laid_out(
            self._outputs(references, rows, references_kept, frozen.features), [x["seen"] for x in references]
        )
        self._exchange(parts, examples)
        nobody = torch.tensor([x.dropped or x.nameless for x in examples])
        texts = [self._texts(x, base) for x in examples]
        flat = [text for each in texts for text in each]
        dropped = [x.dropped for x, each in zip(examples, texts, strict=True) for _ in each]
        said = [frozen.nothing_said if x else text for x, text in zip(dropped, frozen.texts(flat), strict=True)]
        if size[1] > 1:  # of the scene nothing is fused
            parts = in_rows(parts, size)
            parts = torch.cat([frozen.blank.expand_as(parts[:, :1]), parts], 1).flatten(0, 1)
        parts, token_mask, part_mask = ConsistentID.arrange(flat, parts, frozen.limit)
        positions, used = word_positions([each[0] for each in texts])
        masks, person, face_area = (
            torch.stack([x[name] for x in targets]).float() for name in ("masks", "person", "face")
        )
        whole = torch.tensor([x.whole for x in examples])[:, None, None, None]
        altered = torch.tensor([x.exchange is not None for x in examples])
        exchanged = config.exchange_weight * torch.stack([x.exchanged_mask for x in examples]).float()
        embedding, wanted = (
            in_rows(torch.stack([x[name] for x in references]), size) for name in ("embedding", "wanted")
        )
        spans = len(examples), len(texts[0])  # B, S
        pooled = in_rows(torch.stack([x["pooled"] for x in said]), spans)[:, 0] if "pooled" in said[0] else None
        unseen = nobody[:, None, None]
        return Batch(
            base=base,
            sampled=learns_sampled(config, examples[0].step),
            latents=torch.cat(latents).float(),
            noise=torch.stack([x.noise for x in examples]),
            time=torch.tensor([x.time for x in examples], dtype=torch.float64),
            text=in_rows(torch.stack([x["text"] for x in said]).float(), spans),
            pooled=None if pooled is None else pooled.float(),
            parts=parts.float(),
            token_mask=token_mask,
            part_mask=part_mask,
            positions=positions,
            used=used & (masks.amax((-2, -1)) > 0),
            embedding=embedding.masked_fill(unseen, 0.0),
            face=torch.where(unseen[..., None], frozen.blank, in_rows(face, size)).float(),
            masks=masks,
            weight=torch.where(whole, 1.0, person) * (1 + config.face_weight * face_area + exchanged),
            landmarks=torch.stack([x.landmarks for x in examples]),
            # Whose face it is with a part of somebody else no recogniser was asked.
            wanted=wanted.masked_fill((nobody | altered)[:, None, None, None], 0.0),
            asked=self._asked(examples, base) if config.scene_weight else None,
        )

    def _asked(self, examples: Sequence[Example], base: bool) -> Asked:
        """What each sample can know of its picture. The base alone knows its text, which seldom tells faces."""
        weight = told(len(examples), own=not base)
        weight *= torch.tensor([self.config.scene_factors.get(factor, 1.0) for factor in FACTORS])
        for row, example in enumerate(examples):
            if example.dropped:
                weight[row] = 0.0
            elif example.exchange is not None and example.exchange.part in FACTORS:
                weight[row, list(FACTORS).index(example.exchange.part)] += self.config.exchange_weight
        return Asked(torch.stack([x.shown for x in examples if x.shown is not None]), weight)

    def _laid_out(self, features: Sequence[Tensor], seen: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Features of the whole (B, L, D) and of every part (B, N, L, D), blank where a part is not seen."""
        blank = self.frozen.blank
        parts = blank.expand(len(seen), len(PARTS), *blank.shape).clone()
        faces = []
        for row, (found, mask) in enumerate(zip(features, seen, strict=True)):
            faces.append(found[0])
            parts[row, mask] = found[1:]
        return torch.stack(faces), parts

    def _exchange(self, parts: Tensor, examples: Sequence[Example]) -> None:
        """Put the parts of others among the features (B, N, L, D)."""
        rows = [(row, x.exchange, x.other) for row, x in enumerate(examples) if x.exchange and x.other]
        if not rows:
            return
        others = [other for _, _, other in rows]
        found = self._outputs(others, [x.other for _, x, _ in rows], self._kept[1], self.frozen.features)
        _, theirs = self._laid_out(found, [x["seen"] for x in others])
        for number, (row, exchange, _) in enumerate(rows):
            part = PARTS.index(exchange.part)
            parts[row, part] = theirs[number, part]

    def _texts(self, example: Example, base: bool) -> list[FacialText]:
        """What a sample's text encoder reads, and which words of it are fused: of several people first of the scene."""
        if base:  # half of the texts tell of the face, as users' prompts may
            face = example.faces[0]
            told = f"{example.prompt}, {face}" if example.sentence < 0.5 and face else example.prompt
            return [self._composed("" if example.dropped else told, "", [])]
        people = range(len(example.references))
        scene = [self._composed("" if example.dropped else example.prompt, "", [])] if len(people) > 1 else []
        return [*scene, *(self._text(example, person) for person in people)]

    def _text(self, example: Example, person: int) -> FacialText:
        config, choice, face = self.config, example.sentence, example.faces[person]
        if example.dropped:
            return self._composed("", "", [])
        sentence, seen = "", example.seen(person)
        if example.exchange:
            words = {example.exchange.part: example.exchange.words} if example.worded else {}
            whole = example.worded and choice >= config.text_only + config.fixed_sentence and face
            sentence = face if whole else facial_sentence(self.spec, seen, words)
        elif choice >= config.text_only:
            # What the caption leaves out is not to be seen in the picture that is drawn, so it is not completed
            # with the parts of the reference, as a request's is.
            fixed = choice < config.text_only + config.fixed_sentence
            sentence = facial_sentence(self.spec, seen) if fixed or not face else face
        return self._composed(example.prompt, sentence, seen)

    def _composed(self, prompt: str, sentence: str, seen: Sequence[str]) -> FacialText:
        # A long caption leaves room for the facial words, but no more than half of all.
        count, limit = self.frozen.count, self.frozen.limit
        room = limit - min(count(sentence) if sentence else 0, limit // 2)
        return compose(fitting("", prompt, count, room), sentence, seen, self.spec, count, limit)


class Places(data.Sampler[list[Place]]):
    """The places of one process, a list for each part of a step, from a step on to the last.

    Args:
        config: steps, batch, seed and parts of a step.
        source: gives the order of each epoch.
        start: first step.
        rank, world: of `world` processes, the one of this rank.
    """

    def __init__(self, config: TrainConfig, source: Source, start: int, rank: int = 0, world: int = 1) -> None:
        self.config, self.start, self.rank, self.world = config, start, rank, world
        self._order = source.order(config.schedule.seed)

    def __iter__(self) -> Iterator[list[Place]]:
        schedule, parts = self.config.schedule, self.config.accumulate
        for step in range(self.start, schedule.steps):
            rows = batch_indices(self._order, schedule.batch, step)
            places = [(step, index, int(row)) for index, row in enumerate(rows)]
            mine = places[self.rank :: self.world]
            size = len(mine) // parts
            yield from (mine[part * size : (part + 1) * size] for part in range(parts))


def learns_base(config: TrainConfig, step: int) -> bool:
    """Whether in this step the base alone learns from text."""
    return _drawn(config, step) < config.base_share


def learns_sampled(config: TrainConfig, step: int) -> bool:
    """Whether in this step the losses judge pictures that the model samples itself."""
    return config.base_share <= _drawn(config, step) < config.base_share + config.sampled_share


def learns_company(config: TrainConfig, step: int) -> bool:
    """Whether in this step the adapter learns pictures of several people."""
    return _drawn(config, step) >= 1 - config.company_share


def _drawn(config: TrainConfig, step: int) -> float:
    """The uniform number that says what is learnt in a step."""
    return float(np.random.default_rng((config.schedule.seed, step)).random())


def framed(picture: Picture, size: int) -> Picture:
    """The largest square of a picture, as near to the face as the borders allow, at ``size`` pixels."""
    image, labels = Image.fromarray(picture.pixels), Image.fromarray(picture.labels)
    if image.size == (size, size):
        return picture
    box = largest_square(image.size, face_box(picture.labels))
    marks = picture.landmarks
    if marks is not None:
        marks = ((marks - box[:2]) * (size / (box[2] - box[0]))).astype(np.float32)
    return replace(
        picture,
        pixels=np.asarray(image.resize((size, size), Image.Resampling.LANCZOS, box)),
        labels=np.asarray(labels.resize((size, size), Image.Resampling.NEAREST, box)),
        landmarks=marks,
    )


def face_box(labels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(4,) left, top, right, bottom of the face in labels (H, W); all of the picture if there is none."""
    face = np.isin(labels, FACE_LABELS)
    if not face.any():
        return np.array((0, 0, labels.shape[1], labels.shape[0]), np.float32)
    rows, columns = np.flatnonzero(face.any(1)), np.flatnonzero(face.any(0))
    return np.array((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1), np.float32)


def target_masks(labels: NDArray[np.uint8], size: tuple[int, int]) -> dict[str, Tensor]:
    """What the losses need of labels (H, W), shrunk by area to (h, w), half: "masks" of the parts (N, h, w), "person"
    (1, h, w), 1 where at least a quarter is the person, and "face" (1, h, w)."""
    found = part_masks(labels)
    nothing = np.zeros(labels.shape, np.bool_)
    layers = [found.get(part, nothing) for part in PARTS] + [labels > 0, np.isin(labels, FACE_LABELS)]
    shrunk = F.adaptive_avg_pool2d(torch.from_numpy(np.stack(layers).astype(np.float32)), size).half()
    masks, person, face = torch.split(shrunk, [len(PARTS), 1, 1])
    return {"masks": masks.clone(), "person": (person > 0.25).half(), "face": face.clone()}


def word_positions(texts: Sequence[FacialText]) -> tuple[Tensor, Tensor]:
    """Token that names each part (B, N) long, in order of `PARTS`, and whether there is one (B, N)."""
    positions = torch.zeros(len(texts), len(PARTS), dtype=torch.long)
    used = torch.zeros(len(texts), len(PARTS), dtype=torch.bool)
    for row, text in enumerate(texts):
        for word, position in zip(text.words, text.positions, strict=True):
            positions[row, PARTS.index(word)] = position
            used[row, PARTS.index(word)] = True
    return positions, used

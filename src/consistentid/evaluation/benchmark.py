"""Scoring pictures of people: every measure with its interval, between a random pair and a real one.

Pictures come as rows of a manifest, whoever made them. The two bounds are scored with the same ruler: as "real" the
other pictures of the same person, as "random" real pictures of somebody else that show another prompt.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from consistentid.drawn.scene_reader import FACTORS
from consistentid.errors import InputError
from consistentid.evaluation.encoders import Encoders, see
from consistentid.evaluation.manifest import Row
from consistentid.evaluation.metrics import (
    NOTHING,
    Estimate,
    copy_paste,
    cosine,
    distance_estimate,
    diversity,
    estimate,
    frechet_distance,
    kernel_distance,
    position,
    separation,
    similarity,
    zero_shot,
)
from consistentid.evaluation.protocol import Prompt, alternatives
from consistentid.faces.parts import PARTS
from consistentid.faces.verification import accepted, impostor_threshold
from consistentid.files.images import load_image
from consistentid.files.weights import listed, sha256

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Measure:
    """What is known of a measure.

    Attributes:
        title: for tables.
        about: a few words.
        factor: what values are multiplied with for people to read: similarities and shares by 100, as in the paper.
        better: 1 = more is better, -1 = less is better, 0 = neither.
    """

    title: str
    about: str
    factor: float = 100.0
    better: int = 1


MEASURES: Mapping[str, Measure] = {
    "clip_t": Measure("CLIP-T", "cosine of picture and prompt in CLIP"),
    "adherence": Measure("Adherence", "share of what the prompt asks that the picture shows"),
    "clip_i": Measure("CLIP-I", "cosine of picture and reference in CLIP"),
    "clip_i_subject": Measure("CLIP-I (subject)", "the same, mean over all photos of the person"),
    "dino": Measure("DINO", "cosine of picture and reference in DINO"),
    "face_sim": Measure("FaceSim", "Sim(Ref): cosine of the judge's embeddings of picture and reference"),
    "sim_gt": Measure("Sim(GT)", "the same to photos of the person that the model has not seen"),
    "copy_paste": Measure("Copy-paste", "how much nearer to the reference than to those", 1.0, -1),
    "accepted_1": Measure("Verified at FAR 1 %", "share taken for the person, where 1 % of impostors are"),
    "accepted_01": Measure("Verified at FAR 0.1 %", "share taken for the person, where 0.1 % of impostors are"),
    "fgis": Measure("FGIS", "mean cosine of the facial parts of picture and reference"),
    **{f"fgis_{part}": Measure(f"FGIS {part}", f"cosine of the {part}") for part in PARTS},
    "face_found": Measure("Face found", "share of pictures in which the detector finds a face"),
    "diversity": Measure("Diversity", "1 - cosine in CLIP of pictures that differ in their seed", 100.0, 0),
    "fid": Measure("FID", "Fréchet distance to real pictures, in CLIP", 1.0, -1),
    "kid": Measure("KID", "kernel distance to real pictures, in CLIP", 1.0, -1),
    "seconds": Measure("Seconds", "per picture, median", 1.0, -1),
    "memory_mb": Measure("Memory (MB)", "most held by a process", 1.0, -1),
}
"""Every measure by its key, in the order of the tables."""

SIMILARITIES = ("clip_i", "dino", "face_sim", "sim_gt", "fgis", *(f"fgis_{part}" for part in PARTS))
"""Those that should tell one person from another."""


@dataclass(frozen=True, eq=False)
class Scored:
    """One method's pictures.

    Attributes:
        rows: the pictures.
        each: measure -> (K,) score of each picture.
        scores: measure -> estimate over all of them.
        hits: factor of `FACTORS` -> estimate of how often it is as asked.
    """

    rows: Sequence[Row]
    each: Mapping[str, Floats]
    scores: Mapping[str, Estimate]
    hits: Mapping[str, Estimate] = field(default_factory=dict)

    def of_group(self, key: str, group: str) -> Estimate:
        """A measure over the pictures of one group of prompts."""
        chosen = np.array([row.group == group for row in self.rows])
        people = np.array([row.identity for row in self.rows])
        return estimate(self.each[key][chosen], people[chosen])


@dataclass(frozen=True, eq=False)
class Benchmark:
    """All methods of a run, and the bounds they stand between.

    Attributes:
        methods: name -> its pictures.
        real: real pictures of the same people, the upper bound.
        random: real pictures of somebody else and of another prompt, the lower bound.
        separation: similarity -> how well it tells real pairs from random ones, see `metrics.separation`.
        thresholds: false acceptance rate -> cosine of the judge.
        encoders: role -> name.
        marks: reasons to read scores with care.
    """

    methods: Mapping[str, Scored]
    real: Scored
    random: Scored
    separation: Mapping[str, float]
    thresholds: Mapping[float, float]
    encoders: Mapping[str, str]
    marks: Sequence[str]

    def position(self, method: str, key: str) -> float:
        """Where a method stands between random (0) and real (1)."""
        ends = (self.random.scores[key].value, self.real.scores[key].value)
        return position(self.methods[method].scores[key].value, *ends)

    def difference(self, method: str, other: str, key: str) -> Estimate:
        """How much higher a method scores than another on the same person, prompt and seed; `NOTHING` if on none.

        Its interval is narrower than those of the two scores tell, since both were asked for the same pictures.
        """
        ours, theirs = self.methods[method], self.methods[other]
        if key not in ours.each:
            return NOTHING
        found = dict(zip((row.task for row in theirs.rows), theirs.each[key], strict=True))
        gains = [x - found.get(row.task, math.nan) for row, x in zip(ours.rows, ours.each[key], strict=True)]
        return estimate(np.array(gains), np.array([row.identity for row in ours.rows]))


def score(
    rows: Sequence[Row],
    encoders: Encoders,
    asks: Mapping[str, Prompt] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Benchmark:
    """Score all pictures of a manifest.

    Args:
        rows: of one or several methods.
        encoders: what is looked through.
        asks: text of a prompt -> the prompt with what it asks of the picture; where none is known, adherence is not
            measured.
        progress: called with (pictures seen, pictures in all).

    Raises:
        InputError: there are no pictures at all.
        ImageError: one cannot be read.
    """
    if not any(row.picture for row in rows):
        raise InputError("none of the pictures exists; look at the paths in the manifest")
    rows = _shared(rows)
    eyes = _Eyes(rows, encoders, asks or {}, progress)
    real = _real_rows(rows)
    methods: dict[str, list[Row]] = {}
    for row in rows:
        methods.setdefault(row.method, []).append(row)
    scored = {name: eyes.score(chosen) for name, chosen in methods.items()}
    upper, lower = eyes.score(real, bound=True), eyes.score(_shuffled(real), bound=True)
    told = {key: separation(upper.each[key], lower.each[key]) for key in SIMILARITIES}
    marks = [*encoders.marks, *eyes.marks()]
    return Benchmark(scored, upper, lower, told, eyes.thresholds, encoders.names(), marks)


def _shared(rows: Sequence[Row]) -> list[Row]:
    """The rows with one path for all equal pictures of people, which several manifests may each have a copy of.

    Copies would count as pictures of their own in the bounds, and as pairs without any distance in KID.
    """
    first: dict[str, Path] = {}

    @cache
    def one(path: Path) -> Path:
        try:
            return first.setdefault(sha256(path), path)
        except OSError:  # told of when it is looked at
            return path

    return [
        replace(
            row,
            reference=one(row.reference),
            others=tuple(dict.fromkeys(map(one, row.others))),
            real=one(row.real) if row.real else None,
        )
        for row in rows
    ]


def _real_rows(rows: Sequence[Row]) -> list[Row]:
    """Other pictures of the same people as if a model had made them; each is compared to the remaining ones."""
    found: dict[tuple[str, Path], Row] = {}
    for row in rows:
        for picture in (row.real,) if row.real else row.others:
            key = row.identity, picture
            if key not in found:
                others = tuple(other for other in row.others if other != picture)
                prompt = (row.prompt, row.group) if row.real else ("", "")
                found[key] = Row("real", row.identity, *prompt, 0, picture, row.reference, others, row.real)
    return list(found.values())


def _shuffled(real: Sequence[Row]) -> list[Row]:
    """Each person with a real picture of the next one, who shows another prompt."""
    people = list(dict.fromkeys(row.identity for row in real))
    if len(people) < 2:
        return []
    pictures = {name: [row.picture for row in real if row.identity == name] for name in people}
    next_one = dict(zip(people, people[1:] + people[:1], strict=True))
    seen: dict[str, int] = {}
    rows = []
    for row in real:
        number = seen[row.identity] = seen.get(row.identity, 0) + 1
        theirs = pictures[next_one[row.identity]]
        picture = theirs[number % len(theirs)]
        rows.append(Row("random", row.identity, row.prompt, row.group, 0, picture, row.reference, row.others, row.real))
    return rows


class _Eyes:
    """All pictures of a run as seen by the encoders, once each."""

    def __init__(
        self,
        rows: Sequence[Row],
        encoders: Encoders,
        asks: Mapping[str, Prompt],
        progress: Callable[[int, int], None] | None,
    ) -> None:
        self._asks = asks
        files = {path for row in rows for path in (row.picture, row.reference, *row.others) if path}
        order = sorted(files)

        def pictures() -> Iterator[Image.Image]:
            for number, path in enumerate(order, 1):
                yield load_image(path)
                if progress:
                    progress(number, len(order))

        self._features = see(pictures(), encoders).with_blank()
        self._index: dict[Path | None, int] = {path: number for number, path in enumerate(order)} | {None: -1}
        texts = sorted({row.prompt for row in rows if row.prompt})
        self._texts = dict(zip(texts, encoders.clip.embed_texts(texts), strict=True))
        self._read = encoders.scenes is not None
        self._alternatives = {
            (text, factor): encoders.clip.embed_texts(alternatives(factor, asks[text].asks))
            for text in texts
            if text in asks and not self._read
            for factor in asks[text].asks
        }
        references = {row.identity: row.reference for row in rows}
        others = {name: sorted({x for row in rows if row.identity == name for x in row.others}) for name in references}
        self._people = {name: (references[name], known) for name, known in others.items()}
        self._real = self._features.clip[sorted({self._index[path] for known in others.values() for path in known})]
        wrong = [
            self._faces(reference, known or [references[stranger]])
            for name, reference in references.items()
            for stranger, known in others.items()
            if stranger != name
        ]
        impostors = np.concatenate(wrong) if wrong else np.zeros(0)
        self.thresholds = {far: impostor_threshold(impostors, far) for far in (0.01, 0.001)}

    def marks(self) -> list[str]:
        """What is wrong with the pictures of the people themselves."""
        blind = {path for path, number in self._index.items() if np.isnan(self._features.face[number]).any()}
        first = [name for name, (reference, _) in self._people.items() if reference in blind]
        rest = [name for name, (_, known) in self._people.items() if known and blind.issuperset(known)]
        return [
            *([f"no face is found in the reference of {listed(first)}: all likeness to it counts 0"] if first else []),
            *([f"no face is found in any other picture of {listed(rest)}: Sim(GT) counts 0"] if rest else []),
        ]

    def _faces(self, reference: Path, pictures: Sequence[Path]) -> Floats:
        face = self._features.face
        return cosine(face[self._index[reference]], face[[self._index[path] for path in pictures]])

    def score(self, rows: Sequence[Row], *, bound: bool = False) -> Scored:
        """Every measure of some pictures; of a bound, those of cost and of whole sets do not apply."""
        if not rows:
            empty = dict.fromkeys(MEASURES, np.zeros(0))
            return Scored((), empty, dict.fromkeys(MEASURES, NOTHING))
        people = np.array([row.identity for row in rows])
        hits = self._hits(rows)
        each = self._each(rows) | {"adherence": _mean(np.stack(list(hits.values()), 1)) if hits else _nothing(rows)}
        scores = {key: estimate(values, people) for key, values in each.items()}
        scores |= dict.fromkeys(("fid", "kid", "diversity", "seconds", "memory_mb"), NOTHING)
        features = self._features.clip[[self._index[row.picture] for row in rows]]
        if not bound:
            scores["fid"] = distance_estimate(frechet_distance, features, people, self._real)
            scores["kid"] = distance_estimate(kernel_distance, features, people, self._real)
            scores["seconds"] = _cost([row.seconds for row in rows], np.median, people)
            scores["memory_mb"] = _cost([row.memory_mb for row in rows], np.max, people)
            made = np.array([row.picture is not None for row in rows])
            varied = diversity(features[made], [(row.identity, row.prompt) for row in rows if row.picture])
            if varied:
                scores["diversity"] = estimate(np.array(list(varied.values())), np.array([name for name, _ in varied]))
        factors = {factor: estimate(values, people) for factor, values in hits.items()}
        return Scored(rows, each, {key: scores[key] for key in MEASURES}, factors)

    def _each(self, rows: Sequence[Row]) -> dict[str, Floats]:
        f, index = self._features, self._index
        made, reference = ([index[getattr(row, name)] for row in rows] for name in ("picture", "reference"))
        unknown = np.full(f.clip.shape[1], np.nan, np.float32)
        prompts = np.stack([self._texts.get(row.prompt, unknown) for row in rows])
        refused = np.array([row.picture is None for row in rows])
        # A picture is like nobody where the reference shows nobody: a failure that stays in the denominator, too.
        faceless = np.asarray(np.isnan(f.face[reference]).any(1))
        known_others = np.array([bool(row.others) for row in rows])
        parts = np.where(faceless[:, None], 0.0, similarity(f.parts[reference], f.parts[made]))
        face_sim = np.where(faceless | refused, 0.0, similarity(f.face[reference], f.face[made]))
        direct = cosine(f.face[reference], f.face[made])  # NaN without a face, which copies nothing and is nobody
        verified = {
            far: np.where(np.isnan(face_sim), np.nan, accepted(direct, threshold))
            for far, threshold in self.thresholds.items()
        }
        # row by row, since people may have different numbers of photos
        subject, truth, copied = (np.full(len(rows), np.nan) for _ in range(3))
        for i, row in enumerate(rows):
            others = [index[path] for path in row.others]
            subject[i] = similarity(f.clip[[reference[i], *others]], f.clip[made[i]][None]).mean()
            to_truth = similarity(f.face[others], f.face[made[i]][None])
            truth[i] = _mean(to_truth[None])[0]
            between, beyond = (cosine(f.face[others], f.face[one]) for one in (reference[i], made[i]))
            nearer = copy_paste(np.full_like(between, direct[i]), beyond, between)
            copied[i] = _mean(nearer[None])[0]
        return {
            "clip_t": similarity(prompts, f.clip[made]),
            "clip_i": similarity(f.clip[reference], f.clip[made]),
            "clip_i_subject": subject,
            "dino": similarity(f.dino[reference], f.dino[made]),
            "face_sim": face_sim,
            "sim_gt": np.where(known_others & (refused | np.isnan(truth)), 0.0, truth),
            "copy_paste": copied,
            "accepted_1": verified[0.01],
            "accepted_01": verified[0.001],
            "fgis": np.where(refused | faceless, 0.0, _mean(parts)),
            **{f"fgis_{part}": parts[:, number] for number, part in enumerate(PARTS)},
            "face_found": np.asarray(~np.isnan(f.face[made]).any(1), np.float64),
        }

    def _hits(self, rows: Sequence[Row]) -> dict[str, Floats]:
        """Factor -> (K,) 1 where a picture shows the value asked for, 0 where another, NaN where none was asked."""
        hits: dict[str, Floats] = {}
        for i, row in enumerate(rows):
            asks = self._asks[row.prompt].asks if row.prompt in self._asks else {}
            for factor, value in asks.items():
                column = hits.setdefault(factor, np.full(len(rows), np.nan))
                column[i] = row.picture is not None and self._shown(row, factor) == value
        return hits

    def _shown(self, row: Row, factor: str) -> str:
        """The value of a factor that a picture shows, as the scene reader has it, or else CLIP."""
        number = self._index[row.picture]
        if self._read:
            value = self._features.scene[number, list(FACTORS).index(factor)]
        else:
            value = zero_shot(self._features.clip[number][None], self._alternatives[row.prompt, factor])[0]
        return FACTORS[factor][int(value)]


def _mean(values: Floats) -> Floats:
    """(K,) mean of (K, M) over what is known; NaN where nothing is."""
    known = ~np.isnan(values)
    total: Floats = np.where(known, values, 0).sum(1) / np.where(known.any(1), known.sum(1), np.nan)
    return total


def _nothing(rows: Sequence[Row]) -> Floats:
    return np.full(len(rows), np.nan)


def _cost(values: Sequence[float], summary: Callable[[Floats], Any], people: NDArray[Any]) -> Estimate:
    """Median or maximum of a cost; without an interval, since it belongs to the machine and not to the people."""
    known = np.array([value for value in values if not math.isnan(value)])
    if not len(known):
        return NOTHING
    value = float(summary(known))
    return Estimate(value, value, value, len(known), len(set(people)))

"""Making the pictures of a benchmark: people x prompts x seeds x variants, resumable, by several processes."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import psutil  # type: ignore[import-untyped]
import torch

from consistentid.adapter.identity import Identity
from consistentid.errors import FaceError, InputError
from consistentid.evaluation.manifest import Row
from consistentid.evaluation.people import Person
from consistentid.evaluation.protocol import Prompt
from consistentid.evaluation.variants import Variant
from consistentid.files.output import read_record
from consistentid.files.weights import content_digest
from consistentid.files.workers import quiet_libraries, run_in_processes
from consistentid.files.writing import write_whole
from consistentid.pipeline.pipeline import ConsistentIDPipeline
from consistentid.pipeline.request import Request
from consistentid.presets.keys import settings_key
from consistentid.presets.preset import Preset
from consistentid.provenance.marks import UNMARKED

Progress = Callable[[int, int], None]
Job = TypeVar("Job")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Plan:
    """What is to be made. Everything a process needs to know.

    Attributes:
        preset: the networks, and the settings of all variants.
        model: plain values that tell these networks from any others, see `presets.keys`.
        folder: of the report.
        people, prompts, variants: every person in every prompt, by every variant.
        seeds: pictures of each person, prompt and variant; the same seeds for all variants.
    """

    preset: Preset
    model: Mapping[str, Any]
    folder: Path
    people: Sequence[Person]
    prompts: Sequence[Prompt]
    variants: Sequence[Variant]
    seeds: int = 1

    def __post_init__(self) -> None:
        if self.seeds < 1 or len(self.prompts) > 1000 or self.seeds * len(self.people) > 4_000_000:
            raise InputError("give at least one seed, at most 1,000 prompts and 4,000,000 people times seeds")

    def seed(self, person: int, prompt: int, number: int) -> int:
        """Of a picture: the same for all variants, and however many people and prompts there are."""
        return ((number * 1_000_003 + person) * 1000 + prompt) % 2**32

    def picture(self, variant: Variant, person: int, prompt: int, number: int) -> Path:
        """Where a picture is; its name ends in a hash of all that made it, so that it is never taken for another."""
        who = self.people[person]
        made_of = {
            **self.model,
            "settings": settings_key(self.preset, **(variant.settings or {})),
            "variant": [variant.adapter, variant.parts, variant.face_text],
            "face_text": who.face_text if variant.face_text == "true" else "",
            "reference": content_digest(who.reference),
            "prompt": self.prompts[prompt].text,
            "seed": self.seed(person, prompt, number),
        }
        name = f"{prompt:02d}-{number}-{_hash(made_of)}.png"
        return self.folder / "pictures" / variant.name / who.name / name

    def identity(self, person: int) -> Path:
        """Where a person is kept as the model sees them."""
        who = self.people[person]
        made_of = {**self.model, "reference": content_digest(who.reference)}
        return self.folder / "identities" / f"{who.name}-{_hash(made_of)}.safetensors"

    def jobs(self) -> list[tuple[Variant, int]]:
        """(variant, number of the person)."""
        return [(variant, person) for variant in self.variants for person in range(len(self.people))]

    def rows(self) -> Iterator[Row]:
        """Every picture of the plan, made or not."""
        for variant in self.variants:
            for place, person in enumerate(self.people):
                for index, prompt in enumerate(self.prompts):
                    for number in range(self.seeds):
                        path = self.picture(variant, place, index, number)
                        cost = read_record(path) if path.is_file() else {}
                        yield Row(
                            method=variant.name,
                            identity=person.name,
                            prompt=prompt.text,
                            group=prompt.group,
                            seed=number,
                            picture=path if cost else None,
                            reference=person.reference,
                            others=person.others,
                            real=person.real.get(index),
                            seconds=cost.get("seconds") or float("nan"),
                            memory_mb=cost.get("memory_mb") or float("nan"),
                        )


def generate(plan: Plan, studio: ConsistentIDPipeline, workers: int = 1, progress: Progress | None = None) -> list[str]:
    """Make all pictures of a plan that are not there yet.

    Can be stopped at any moment; the same call goes on where it was.

    Args:
        plan: what to make.
        studio: of the same preset.
        workers: processes, each with networks of its own where there are several; they share all GPUs.
        progress: called with (pictures done, pictures in all).

    Returns:
        One line for each reference that the model refused, such as one without a face; its pictures stay missing.

    Raises:
        ConsistentIDError: weights are missing, the disk is full, a process was killed.
    """
    jobs = plan.jobs()
    each = len(plan.prompts) * plan.seeds
    refused: dict[str, str] = {}
    done = 0

    def finish(person: int, reason: str | None) -> None:
        nonlocal done
        done += each
        if reason:
            refused[plan.people[person].name] = reason
        if progress:
            progress(done, len(jobs) * each)

    todo = []
    for variant, person in jobs:
        if _missing(plan, variant, person):
            todo.append((variant, person))
        else:
            finish(person, None)
    in_studios(studio, partial(_work, plan), todo, workers, lambda job, reason: finish(job[1], reason))
    return [f"{name}: {reason}" for name, reason in refused.items()]


def as_variant(variant: Variant, who: Identity, prompts: Sequence[str], seeds: Sequence[int]) -> Request:
    """A picture of a person for each prompt with its seed, as a variant makes it."""
    if variant.adapter:
        hidden = torch.arange(len(who.part_mask)) >= variant.parts
        who = replace(who, part_mask=who.part_mask & ~hidden)
    request = Request(
        who,
        prompts,
        seed=seeds,
        face_text="" if variant.face_text == "none" and variant.adapter else None,
        base_alone=not variant.adapter,
    )
    return request.with_settings(variant.settings or {})


def _missing(plan: Plan, variant: Variant, person: int) -> list[tuple[int, int]]:
    """(prompt, number of the seed) of the pictures of a job that are not there."""
    return [
        (prompt, number)
        for number in range(plan.seeds)
        for prompt in range(len(plan.prompts))
        if not plan.picture(variant, person, prompt, number).is_file()
    ]


def in_studios(
    studio: ConsistentIDPipeline,
    work: Callable[[ConsistentIDPipeline, Job], Result],
    jobs: Sequence[Job],
    workers: int,
    finish: Callable[[Job, Result], object],
) -> None:
    """Do every job with a pipeline, this one or, with several workers, in processes with one of the same preset each.

    Args:
        work: does a job; a function of a module, or a `functools.partial` of one.
        workers: processes; they share all GPUs.
        finish: called with each job and its result, as they come.

    Raises:
        ConsistentIDError: a process was killed. What `work` and `finish` raise is raised as it is.
    """
    if workers == 1 or len(jobs) < 2:
        for job in jobs:
            finish(job, work(studio, job))
        return
    gpus = torch.cuda.device_count() if studio.device.type == "cuda" else 0
    devices = [f"cuda:{number}" for number in range(gpus)] or [str(studio.device)]
    run_in_processes(
        partial(_studio, studio.preset, studio.dtype, devices),
        work,
        jobs,
        workers,
        finish,
        threads_each=max(1, (os.cpu_count() or 1) // workers),
        remedy="the same command goes on where it was, with fewer --workers it needs less",
    )


def _studio(preset: Preset, dtype: torch.dtype, devices: Sequence[str], number: int) -> ConsistentIDPipeline:
    quiet_libraries()
    return ConsistentIDPipeline(preset, devices[number % len(devices)], dtype)


def _work(plan: Plan, studio: ConsistentIDPipeline, job: tuple[Variant, int]) -> str | None:
    """Make the missing pictures of one person by one variant; the reason if the reference was refused."""
    variant, person = job
    somebody = plan.people[person]
    try:
        who = identity_of(studio, plan, person)
    except FaceError as error:
        return str(error)
    if variant.face_text == "true":
        who = replace(who, face_text=somebody.face_text)
    missing, size = _missing(plan, variant, person), studio.preset.settings.batch_size
    for batch in (missing[start : start + size] for start in range(0, len(missing), size)):
        seeds = [plan.seed(person, prompt, number) for prompt, number in batch]
        texts = [plan.prompts[prompt].text for prompt, _ in batch]
        began = time.perf_counter()
        made = studio.sample(as_variant(variant, who, texts, seeds))
        more = {
            "variant": variant.name,
            "identity": somebody.name,
            "seconds": (time.perf_counter() - began) / len(batch),
            "memory_mb": peak_memory_mb(studio.device),
        }
        for row, (prompt, number) in enumerate(batch):
            write_whole(plan.picture(variant, person, prompt, number), made.to_png(row, more, UNMARKED))
    return None


def identity_of(studio: ConsistentIDPipeline, plan: Plan, person: int) -> Identity:
    """The person as the model sees them, kept in a file, since every variant needs the same.

    Raises:
        FaceError: there is no one face in the reference.
    """
    file = plan.identity(person)
    if file.is_file():
        return Identity.load(file)
    who = studio.identify(plan.people[person].reference)
    file.parent.mkdir(parents=True, exist_ok=True)
    who.save(file)
    return who


def _hash(made_of: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:12]


def peak_memory_mb(device: torch.device) -> float:
    """The most memory this process has held so far, on the GPU if it computes there; NaN where it cannot be told."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        import resource
    except ImportError:  # Windows
        return float(psutil.Process().memory_info().peak_wset) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)

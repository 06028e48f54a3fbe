"""From a preset to its report: people, pictures, scores."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from consistentid.errors import FaceError, InputError
from consistentid.evaluation.benchmark import score
from consistentid.evaluation.encoders import Encoders
from consistentid.evaluation.generation import Plan, generate, identity_of
from consistentid.evaluation.manifest import NAME, Row, write_manifest
from consistentid.evaluation.people import TEST, draw_people, read_people
from consistentid.evaluation.protocol import Protocol
from consistentid.evaluation.report.report import REPORT_FILES, write_report
from consistentid.evaluation.report.tables import About
from consistentid.evaluation.variants import CURVES, FULL, Variant, ablation
from consistentid.files.claims import claimed
from consistentid.files.output import encode_png, versions
from consistentid.files.weights import fingerprint
from consistentid.files.writing import check_folder, write_whole
from consistentid.pipeline.attention import attention_sheet, word_attention
from consistentid.pipeline.pipeline import ConsistentIDPipeline
from consistentid.pipeline.request import Request
from consistentid.presets.keys import model_key, settings_key
from consistentid.presets.preset import Preset

Progress = Callable[[str, int, int], None]
"""Called with (what is being done, done, in all)."""

_CLAIM = "run.json"
_PICTURES = "pictures.json"
_ATTENTION = 3


def evaluate_preset(
    studio: ConsistentIDPipeline,
    encoders: Encoders,
    protocol: Protocol,
    folder: Path,
    *,
    people: int,
    seeds: int = 1,
    photos: Path | None = None,
    split: str = TEST,
    variants: Sequence[Variant],
    ablations: Sequence[str] = (),
    workers: int = 1,
    progress: Progress = lambda *_: None,
) -> dict[str, Any]:
    """Make the pictures of a benchmark, score them and write the report.

    Can be stopped at any moment; the same call goes on where it was, also with more people, prompts or variants.

    Args:
        studio: the preset, with the settings of the protocol.
        encoders: what the scores are made with.
        protocol: the prompts.
        folder: of the report; new, empty, or of the same preset and protocol.
        people: how many.
        seeds: pictures of each person and prompt.
        photos: a folder of people; drawn ones by default.
        split: of drawn people, see `draw_people`.
        variants: ways of running the model.
        ablations: names of `variants.ABLATIONS`, whose variants are added.
        workers: processes that make pictures.
        progress: told how far it is.

    Returns:
        The report as plain values.

    Raises:
        InputError: an argument out of its range, or the folder holds something else.
        ConsistentIDError: see `generate` and `score`.
    """
    settings = studio.preset.settings
    groups = {name: ablation(name, settings) for name in ablations}
    every = [*variants, *(variant for group in groups.values() for variant in group.values())]
    chosen = list({variant.name: variant for variant in every}.values())
    if photos and any(variant.face_text == "true" for variant in chosen):
        raise InputError("a true sentence about the face is known for drawn people only; leave out the captions")
    check_folder(folder)
    model = {**model_key(studio.preset), "dtype": str(studio.dtype)}
    about = {**model, "settings": settings_key(studio.preset), "protocol": protocol.name}
    with claimed(folder, "evaluation", about, note=_CLAIM):
        return _evaluate(
            studio, encoders, protocol, folder, people, seeds, photos, split, chosen, groups, workers, model, progress
        )


def _evaluate(
    studio: ConsistentIDPipeline,
    encoders: Encoders,
    protocol: Protocol,
    folder: Path,
    people: int,
    seeds: int,
    photos: Path | None,
    split: str,
    chosen: Sequence[Variant],
    groups: Mapping[str, Mapping[str, Variant]],
    workers: int,
    model: Mapping[str, Any],
    progress: Progress,
) -> dict[str, Any]:
    settings = studio.preset.settings
    home = folder / "people"
    who = (
        read_people(photos, people)
        if photos
        else draw_people(home, people, protocol.prompts, partial(progress, "people"), split=split)
    )
    plan = Plan(studio.preset, model, folder, who, protocol.prompts, chosen, seeds)
    sheets = _attention(studio, plan)
    refused = generate(plan, studio, workers, partial(progress, "pictures"))
    rows = list(plan.rows())
    write_manifest(folder / NAME, rows)
    benchmark = score(rows, encoders, {p.text: p for p in protocol.prompts}, partial(progress, "seen"))
    whom = "people" if photos else f"people of the split {split}"
    facts = {
        "preset": studio.preset.name,
        "adapter": _told(studio.preset),
        "protocol": f"{protocol.name}: {protocol.about}",
        "made of": f"{people} {whom}, {len(protocol.prompts)} prompts, {seeds} seed{'s' * (seeds > 1)} each",
        "settings": ", ".join(f"{name} {value}" for name, value in settings.record().items() if value != ""),
        "processes": workers,
        **environment(),
    }
    about = About(
        title=f"How well the preset {studio.preset.name!r} keeps identities",
        facts=facts,
        labels={variant.name: variant.about for variant in chosen},
        curves={
            name: (CURVES[name][0], {value: v.name for value, v in group.items()})
            for name, group in groups.items()
            if name in CURVES
        },
        sheets=sheets,
        refused=refused,
    )
    return write_report(folder, benchmark, about)


def evaluate_pictures(
    rows: Sequence[Row],
    encoders: Encoders,
    protocol: Protocol,
    folder: Path,
    title: str,
    progress: Progress = lambda *_: None,
) -> dict[str, Any]:
    """Score pictures that are there already and write the report.

    Args:
        rows: of one or several manifests.
        encoders: what the scores are made with.
        protocol: prompts of the same text are known to ask of the picture what they ask there.
        folder: of the report.
        title: of the report.
        progress: told how far it is.

    Raises:
        InputError, ImageError: see `score`.
    """
    check_folder(folder)
    with claimed(folder, "report on pictures", {}, note=_PICTURES, own=REPORT_FILES):
        benchmark = score(rows, encoders, {p.text: p for p in protocol.prompts}, partial(progress, "seen"))
        people = len({row.identity for row in rows})
        facts = {"made of": f"{len(rows)} pictures of {people} people", **environment()}
        return write_report(folder, benchmark, About(title=title, facts=facts))


def environment() -> dict[str, str]:
    """What a result depends on beside the weights: the command, versions, machine."""
    told = ", ".join(f"{name} {number}" for name, number in versions().items())
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    command = shlex.join(["consistentid", *sys.argv[1:]])
    return {"command": command, "versions": told, "machine": f"{platform.machine()}, {os.cpu_count()} cores{gpu}"}


def _told(preset: Preset) -> str:
    """Name and hash of the adapter, and of the base's UNet where it is on this machine."""
    adapter, base = preset.adapter.find(), preset.base.path
    names = [fingerprint(adapter) if adapter else str(preset.adapter)]
    if base and (base / "unet").is_dir():
        names.append(fingerprint(base / "unet"))
    return " on ".join(names)


def _attention(studio: ConsistentIDPipeline, plan: Plan) -> dict[str, Path]:
    """Sheets of the first people, made once."""
    sheets = {}
    for number, person in enumerate(plan.people[:_ATTENTION]):
        prompt = number % len(plan.prompts)
        shown = plan.picture(FULL, number, prompt, 0)
        file = plan.folder / "attention" / f"{person.name}-{shown.name}"
        text = plan.prompts[prompt].text
        if not file.exists():
            try:
                who = identity_of(studio, plan, number)
            except FaceError:  # told of by `generate`
                continue
            request = Request(who, text, seed=plan.seed(number, prompt, 0))
            found = word_attention(studio.sampler, request, studio.preset.settings)
            write_whole(file, encode_png(attention_sheet([found]), {"prompt": text, "seed": request.seed}))
        sheets[f"{person.name}: {text}"] = file
    return sheets

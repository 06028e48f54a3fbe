"""`consistentid evaluate`."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from consistentid.cli.common import (
    EXISTING,
    debug_option,
    device_option,
    dtype_option,
    json_option,
    load_pipeline,
    named_bars,
    preset_option,
    print_json,
)
from consistentid.errors import InputError

if TYPE_CHECKING:
    from consistentid.evaluation.manifest import Row
    from consistentid.presets.preset import Preset

PEOPLE = "people"
"""Name of the protocol of several people in one picture."""


@click.command(
    short_help="Measure how well identities are kept.",
    epilog="""\b
Examples:
  consistentid evaluate --people 100 --prompts 8 --out report
  consistentid evaluate --ablate components --ablate merge --people 20 --workers 4 --out ablations
  consistentid evaluate --preset sd15 --photos PEOPLE --judge adaface.onnx --prompts 45 --out report
  consistentid evaluate --protocol people --people 100 --prompts 4 --out pairs
  consistentid evaluate --protocol people --manifest OTHER_TOOL/pictures.csv --out pairs
  consistentid evaluate --pictures OTHER_TOOL --manifest OTHER_TOOL/manifest.csv --out report""",
)
@click.option("--people", default=100, show_default=True, type=click.IntRange(1, 100_000), help="How many.")
@click.option("--prompts", default=8, show_default=True, type=int, help="The first so many of the protocol.")
@click.option("--seeds", default=1, show_default=True, type=click.IntRange(1, 100), help="Pictures of each of them.")
@click.option("--photos", type=EXISTING, help="A folder with a folder of photos a person.  [default: drawn people]")
@click.option(
    "--split",
    default="test",
    show_default=True,
    type=click.Choice(["test", "validation"]),
    help="Of drawn people: test to report, validation to choose weights and settings by.",
)
@click.option(
    "--protocol",
    help="Name or YAML file of a list of prompts; or `people`: pairs of people in one picture.  [default: drawn, or"
    " paper for photos]",
)
@click.option("--variant", "variants", multiple=True, help="A way of running the model. Repeatable.  [default: full]")
@click.option("--ablate", "ablations", multiple=True, help="components, captions, merge, scale or parts. Repeatable.")
@click.option("--adapter", help="Other adapter weights than the preset's: a path or a repository of the hub.")
@click.option("--base", help="Another base model: a path or a repository of the hub.")
@click.option("--steps", type=int, help="Sampling steps.  [default: the protocol's, or the preset's]")
@click.option("--pictures", type=EXISTING, help="Score these pictures instead of making some; needs --manifest.")
@click.option("--manifest", "manifests", multiple=True, metavar="[NAME=]CSV", help="Says what they are. Repeatable.")
@click.option("--judge", help="ONNX file of a face recogniser that conditions nothing.  [default: the preset's]")
@click.option(
    "--conditioned-judge", is_flag=True, help="Allow the recogniser that conditioned the model; it is marked."
)
@click.option("--clip", default="", help="CLIP model.  [default: ViT-L/14, for drawings the preset's own]")
@click.option("--dino", default="", help="Vision transformer.  [default: DINO ViT-S/16, for drawings none]")
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1, 256), help="Processes.")
@click.option("--out", required=True, type=EXISTING, help="Folder of the report; the same line goes on where it was.")
@preset_option
@device_option
@dtype_option
@json_option
@debug_option
def evaluate(
    people: int,
    prompts: int,
    seeds: int,
    photos: Path | None,
    split: str,
    protocol: str | None,
    variants: tuple[str, ...],
    ablations: tuple[str, ...],
    adapter: str | None,
    base: str | None,
    steps: int | None,
    pictures: Path | None,
    manifests: tuple[str, ...],
    judge: str | None,
    conditioned_judge: bool,
    clip: str,
    dino: str,
    workers: int,
    out: Path,
    preset: str,
    device: str | None,
    dtype: str | None,
    as_json: bool,
) -> None:
    """Measure likeness and adherence to the prompt, and write a report.

    Pictures are made of people whom the preset's networks have never seen, or, with --manifest, those of any tool are
    scored. Writes report.html, which opens offline, report.md, report.json and scores.csv. docs/evaluation.md says what
    is measured, and how.
    """
    from consistentid.evaluation.protocol import load_protocol
    from consistentid.evaluation.variants import ablation, find
    from consistentid.presets.read import load_preset

    if pictures and not manifests:
        raise InputError("--pictures needs --manifest FILE, a CSV that says whose they are; see docs/evaluation.md")
    if (photos or manifests) and split != "test":
        raise InputError("--split is of drawn people; leave it out with --photos and --manifest")
    given = {"judge": judge, "adapter": adapter, "base": base}
    chosen = load_preset(preset).override(**{name: value for name, value in given.items() if value})
    if protocol == PEOPLE:
        others = {
            "--variant": variants, "--ablate": ablations, "--photos": photos, "--seeds": seeds > 1, "--clip": clip,
            "--dino": dino,
        }  # fmt: skip
        if unread := [name for name, value in others.items() if value]:
            raise InputError(f"{unread[0]}: the protocol 'people' has no such thing; leave it out")
        _evaluate_people(
            chosen.override(steps=steps), people, prompts, pictures, manifests, device, dtype, workers, out,
            split=split, conditioned_judge=conditioned_judge, as_json=as_json,
        )  # fmt: skip
        return
    if not (chosen.drawings_only or photos or manifests):
        raise InputError(f"the preset {chosen.name!r} is for photos: name a folder of people with --photos")
    prompted = load_protocol(protocol or ("drawn" if chosen.drawings_only else "paper"))
    rows = [row for manifest in manifests for row in _named(manifest, pictures)]
    if not rows:
        prompted = prompted.first(prompts)
    chosen = prompted.of(chosen).override(steps=steps)
    ways = [find(name, chosen.settings) for name in variants or ("full",)]
    for name in ablations:
        ablation(name, chosen.settings)

    studio = load_pipeline(chosen, device, dtype)
    from consistentid.evaluation.encoders import load_encoders
    from consistentid.evaluation.run import evaluate_pictures, evaluate_preset

    encoders = load_encoders(studio, clip, dino, conditioned_judge=conditioned_judge)
    if rows:
        title = f"{len({row.method for row in rows})} methods compared"
        data = evaluate_pictures(rows, encoders, prompted, out, title, progress=named_bars())
    else:
        data = evaluate_preset(
            studio,
            encoders,
            prompted,
            out,
            people=people,
            seeds=seeds,
            photos=photos,
            split=split,
            variants=ways,
            ablations=ablations,
            workers=workers,
            progress=named_bars(),
        )
    if as_json:
        print_json(data)
        return
    click.echo((out / "report.md").read_text())
    click.echo(out / "report.html")


def _evaluate_people(
    chosen: Preset,
    pairs: int,
    prompts: int,
    pictures: Path | None,
    manifests: tuple[str, ...],
    device: str | None,
    dtype: str | None,
    workers: int,
    out: Path,
    *,
    split: str,
    conditioned_judge: bool,
    as_json: bool,
) -> None:
    """The protocol `people`."""
    from consistentid.evaluation.encoders import judge_of
    from consistentid.evaluation.groups import PROMPTS, make_pairs, read_list, report, score_groups
    from consistentid.faces.analyzer import FaceAnalyzer
    from consistentid.files.writing import check_folder

    groups = [group for manifest in manifests for group in read_list(Path(manifest), pictures)]
    if not groups and not chosen.drawings_only:
        raise InputError(f"the preset {chosen.name!r} is for photos: score pictures of it with --manifest")
    judge, conditions = judge_of(chosen, conditioned=conditioned_judge)
    check_folder(out)
    studio, bars = load_pipeline(chosen, device, dtype), named_bars()
    if not groups:
        groups = make_pairs(studio, out, pairs, PROMPTS[:prompts], workers, partial(bars, "pictures"), split=split)
    faces = FaceAnalyzer(studio.analyzer.detector, studio.judge, studio.analyzer.parser)
    scored, threshold = score_groups(groups, faces, partial(bars, "scores"))
    name = f"{judge}, which conditioned the model: likeness is flattered" if conditions else judge
    data = report(groups, scored, threshold, name, out)
    if as_json:
        print_json(data)
        return
    click.echo((out / "people.md").read_text(), nl=False)


def _named(manifest: str, pictures: Path | None) -> list[Row]:
    """The rows of a manifest; of ``NAME=FILE`` as those of a method of that name, which keeps what follows an "@"."""
    from consistentid.evaluation.manifest import read_manifest

    name, equals, file = manifest.partition("=")
    if not equals or Path(manifest).exists():
        return read_manifest(Path(manifest), pictures)
    rows = read_manifest(Path(file), pictures)
    return [replace(row, method="".join((name, *row.method.partition("@")[1:]))) for row in rows]

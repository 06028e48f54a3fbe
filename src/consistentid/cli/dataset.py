"""`consistentid dataset`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from consistentid.cli.common import (
    EXISTING,
    debug_option,
    device_option,
    json_option,
    preset_option,
    print_json,
    progress_bar,
    quiet,
)


@click.group(short_help="Make data sets to train and evaluate with.")
def dataset() -> None:
    """Make data sets to train and evaluate with."""


@dataset.command(
    short_help="Draw portraits, with labels and captions that are exactly true.",
    epilog="""\b
Examples:
  consistentid dataset draw --people 20 --scenes 4 --out drawn
  consistentid dataset draw --people 100 --scenes 2 --split test --size 256 --photos --out drawn-test
  consistentid dataset draw --people 50 --scenes 2 --people-per-picture 2 --out couples""",
)
@click.option("--people", default=20, show_default=True, help="How many different people.")
@click.option("--scenes", default=4, show_default=True, help="Pictures of each of them.")
@click.option("--size", default=128, show_default=True, help="Pixels of the height, 32 to 1024.")
@click.option(
    "--people-per-picture", default=1, show_default=True, help="1, 2 or 3 side by side, in pictures as wide as needed."
)
@click.option("--split", default="train", show_default=True, help="train, validation or test: they share no person.")
@click.option("--seed", default=0, show_default=True, help="Another seed gives other people.")
@click.option("--photos", is_flag=True, help="Also write plain JPEGs, one folder a person.")
@click.option("--out", required=True, type=EXISTING, help="Folder for the data set: a new one, or one to go on with.")
@json_option
@debug_option
def draw(
    people: int,
    scenes: int,
    size: int,
    people_per_picture: int,
    split: str,
    seed: int,
    photos: bool,
    out: Path,
    as_json: bool,
) -> None:
    """Draw people in different scenes: pictures, parsing masks, captions, landmarks and boxes.

    The same options always give the same pictures. A run that was stopped goes on where it was; nothing is overwritten.
    """
    from consistentid.drawn.dataset import Drawing, draw_dataset

    summary = draw_dataset(
        Drawing(people, scenes, size, split, seed, people_per_picture),
        out,
        photos=photos,
        progress=progress_bar("picture"),
    )
    if as_json:
        print_json(summary)
    else:
        click.echo(f"{summary['records']}  {summary['pictures']} pictures, {summary['drawn']} of them drawn now")
        if photos:
            click.echo(summary["photos"])


@dataset.command(
    short_help="Make a data set of raw pictures: find, cut, parse, recognise, describe.",
    epilog="""\b
Examples:
  consistentid dataset build photos --out people
  consistentid dataset build photos --preset sd15 --captioner llava-hf/llava-1.5-7b-hf --workers 4 --out people""",
)
@click.argument("photos", type=EXISTING)
@click.option(
    "-o", "--out", required=True, type=EXISTING, help="Folder for the data set: a new one, or one to go on with."
)
@preset_option
@click.option("--size", default=0, help="Pixels of a side, 32 to 2048  [default: 512, for drawings 128]")
@click.option("--batch", default=16, show_default=True, help="Pictures that go through the networks together.")
@click.option("--captioner", metavar="ID", help="Vision-language model that describes the pictures: hub id or folder.")
@click.option("--engine", type=click.Choice(["local", "ray"]), default="local", show_default=True, help="What runs it.")
@click.option("--workers", type=click.IntRange(min=1), help="Processes  [default: one a core, with a captioner one]")
@device_option
@json_option
@debug_option
def build(
    photos: Path,
    out: Path,
    preset: str,
    size: int,
    batch: int,
    captioner: str | None,
    engine: str,
    workers: int | None,
    device: str | None,
    as_json: bool,
) -> None:
    """Make a data set of the pictures in PHOTOS: one folder a person, or all in one.

    Pictures that cannot be used are listed with the reason and left out; copies, and pictures of another person than
    the rest of their folder, are marked. A run that was stopped goes on where it was.
    """
    quiet()
    from consistentid.data.build.job import REJECTED, SUMMARY, Job
    from consistentid.data.build.run import build_dataset

    job = Job(photos, out, preset, size, batch, captioner, device)
    report = build_dataset(job, engine=engine, workers=workers, progress=progress_bar("picture"))
    if as_json:
        print_json(report)
        return
    rejected = sum(report["rejected"].values())
    click.echo(f"{out / 'JSON_all.json'}  {report['built']} pictures of {report['people'] or 'unnamed'} people")
    if rejected:
        reasons = ", ".join(f"{count} {code}" for code, count in report["rejected"].items())
        click.echo(f"{out / REJECTED}  {rejected} rejected: {reasons}")
    copies, strangers = len(report["near_duplicates"]), len(report["strangers"])
    click.echo(f"{out / SUMMARY}  {copies} near-duplicates, {strangers} of another person than their folder")


@dataset.command(
    short_help="Find the faults of a data set.",
    epilog="""\b
Examples:
  consistentid dataset check people
  consistentid dataset check shards --json > faults.json""",
)
@click.argument("folder", type=EXISTING)
@json_option
@debug_option
def check(folder: Path, as_json: bool) -> None:
    """Look at every record, picture, mask and embedding of the data set in FOLDER, plain or packed.

    The exit code is 0 when nothing is wrong and 2 otherwise.
    """
    from consistentid.data.check import FAULTS, check_dataset
    from consistentid.errors import DatasetError

    report = check_dataset(folder, progress_bar("sample"))
    if as_json:
        print_json(report)
    else:
        for fault in report["faults"]:
            click.echo(f"{fault['sample']}: {fault['detail']}")
        for code, count in report["counts"].items():
            click.echo(f"{count} {code}: {FAULTS[code]}")
        click.echo(f"{report['sound']} of {report['samples']} samples are sound")
    if report["faults"]:
        faulty = report["samples"] - report["sound"]
        raise DatasetError(f"{folder}: {faulty} of {report['samples']} samples have faults; correct or remove them")


@dataset.command(
    short_help="Pack a data set into tar shards with an index.",
    epilog="""\b
Examples:
  consistentid dataset pack people --out shards
  consistentid dataset pack people --samples 5000 --out shards --json""",
)
@click.argument("folder", type=EXISTING)
@click.option(
    "-o", "--out", required=True, type=EXISTING, help="Folder for the shards: a new one, or one to go on with."
)
@click.option("--samples", default=1000, show_default=True, help="Samples of a shard.")
@json_option
@debug_option
def pack(folder: Path, out: Path, samples: int, as_json: bool) -> None:
    """Pack the data set in FOLDER: tar files as WebDataset has them, and a Parquet index to read single samples by.

    Training reads either form. A run that was stopped goes on where it was.
    """
    from consistentid.data.shards import INDEX, pack_dataset

    summary: dict[str, Any] = pack_dataset(folder, out, samples=samples, progress=progress_bar("sample"))
    if as_json:
        print_json(summary)
    else:
        click.echo(f"{out / INDEX}  {summary['samples']} samples in {summary['shards']} shards")

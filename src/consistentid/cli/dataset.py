"""`consistentid dataset`."""

from __future__ import annotations

from pathlib import Path

import click

from consistentid.cli.common import EXISTING, debug_option, json_option, print_json, progress_bar


@click.group(short_help="Make data sets to train and evaluate with.")
def dataset() -> None:
    """Make data sets to train and evaluate with."""


@dataset.command(
    short_help="Draw portraits, with labels and captions that are exactly true.",
    epilog="""\b
Examples:
  consistentid dataset draw --people 20 --scenes 4 --out drawn
  consistentid dataset draw --people 100 --scenes 2 --split test --size 256 --photos --out drawn-test""",
)
@click.option("--people", default=20, show_default=True, help="How many different people.")
@click.option("--scenes", default=4, show_default=True, help="Pictures of each of them.")
@click.option("--size", default=128, show_default=True, help="Pixels of a side, 32 to 1024.")
@click.option("--split", default="train", show_default=True, help="train, validation or test: they share no person.")
@click.option("--seed", default=0, show_default=True, help="Another seed gives other people.")
@click.option("--photos", is_flag=True, help="Also write plain JPEGs, one folder a person.")
@click.option("--out", required=True, type=EXISTING, help="Folder for the data set: a new one, or one to go on with.")
@json_option
@debug_option
def draw(people: int, scenes: int, size: int, split: str, seed: int, photos: bool, out: Path, as_json: bool) -> None:
    """Draw people in different scenes: pictures, parsing masks, captions and landmarks.

    The same options always give the same pictures. A run that was stopped goes on where it was; nothing is overwritten.
    """
    from consistentid.data.drawing import Drawing, draw_dataset

    summary = draw_dataset(
        Drawing(people, scenes, size, split, seed), out, photos=photos, progress=progress_bar("picture")
    )
    if as_json:
        print_json(summary)
    else:
        click.echo(f"{summary['records']}  {summary['pictures']} pictures, {summary['drawn']} of them drawn now")
        if photos:
            click.echo(summary["photos"])

"""`consistentid inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from consistentid.cli.common import EXISTING, debug_option, json_option, print_json


@click.command(
    short_help="How a picture was made.",
    epilog="""\b
Examples:
  consistentid inspect out/portrait-7.png
  consistentid inspect out/portrait-7.png --json""",
)
@click.argument("picture", type=EXISTING)
@json_option
@debug_option
def inspect(picture: Path, as_json: bool) -> None:
    """Read from a PICTURE of this program how it was made: prompt, seed, settings, networks, versions.

    The record is metadata: it tells what a picture says of itself, and is gone from pictures that were converted or
    edited; that none is found means nothing.
    """
    from consistentid.files.output import read_record

    record = read_record(picture)
    if as_json:
        print_json(record)
        return
    width = max(map(len, record), default=0)
    for name, value in record.items():
        click.echo(f"{name:{width}}  {_shown(value)}")


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_shown(item)}" for name, item in value.items()) or "-"
    if isinstance(value, list):
        return "; ".join(map(_shown, value)) or "-"
    # a record is anybody's text: a terminal obeys some of its characters
    text = "-" if value is None or value == "" else str(value)
    return "".join(character if character.isprintable() else "?" for character in text)

"""`consistentid inspect`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from consistentid.cli.common import EXISTING, debug_option, json_option, print_json

_STATES = {
    "none": "none",
    "unknown": "not looked for",
    "invalid": "not valid: changed since it was signed, or not signed as it should be",
    "valid": "valid: not changed since it was signed, by whom is not known: nobody that --trust names vouches for them",
    "trusted": "valid and trusted: not changed since it was signed, and --trust vouches for the signer",
}


@click.command(
    short_help="Where a picture comes from.",
    epilog="""\b
Examples:
  consistentid inspect out/portrait-7.png
  consistentid inspect found-somewhere.jpg --json
  consistentid inspect out/portrait-7.png --trust anchors.pem""",
)
@click.argument("picture", type=EXISTING)
@click.option("--trust", type=EXISTING, help="Certificates in PEM form; signers for whom they vouch are trusted.")
@json_option
@debug_option
def inspect(picture: Path, trust: Path | None, as_json: bool) -> None:
    """Read from a PICTURE where it comes from: its record, its invisible watermark, its Content Credentials (C2PA).

    The record is what a picture says of itself: prompt, seed, settings, networks. Record and credentials are gone from
    most pictures that were converted; the watermark survives compression, cuts and scaling. That none is found means
    nothing.
    """
    from consistentid.provenance.inspection import inspect_picture

    found = inspect_picture(picture, trust)
    if as_json:
        print_json(found)
        return
    # a record is anybody's: what it holds stands indented, so that it cannot pass for what was found out here
    click.echo("record       " + ("none" if found["record"] is None else "as the picture says of itself"))
    _show_all(found["record"] or {})
    mark = found["watermark"]
    click.echo(f"watermark    {_watermark(mark)}")
    credentials = dict(found["credentials"])
    click.echo(f"credentials  {_STATES[credentials.pop('state')]}")
    _show_all(credentials)


def _watermark(mark: Mapping[str, Any]) -> str:
    if not mark["found"]:
        return "none"
    mirrored = ", mirrored" if mark["mirrored"] else ""
    return (
        f"found, at {mark['scale']:.2f} of the size as made{mirrored}; a picture without it looks so with a probability"
        f" below {max(mark['chance'], 1e-99):.0e}"
    )


def _show_all(values: Mapping[str, Any]) -> None:
    width = max(map(len, values), default=0)
    for name, value in values.items():
        click.echo(f"  {_shown(name):{width}}  {_shown(value)}")


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{_shown(name)} {_shown(item)}" for name, item in value.items()) or "-"
    if isinstance(value, list):
        return "; ".join(map(_shown, value)) or "-"
    # a record is anybody's text: a terminal obeys some of its characters
    text = "-" if value is None or value == "" else str(value)
    return "".join(character if character.isprintable() else "?" for character in text)

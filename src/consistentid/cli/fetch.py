"""`consistentid fetch`."""

from __future__ import annotations

import click

from consistentid.cli.common import debug_option, json_option, preset_option, print_json, quiet


@click.command(
    short_help="Download all networks of a preset.",
    epilog="""\b
Examples:
  consistentid fetch --preset sd15
  HF_HOME=/data/hub consistentid fetch --preset ./mine.yaml""",
)
@preset_option
@json_option
@debug_option
def fetch(preset: str, as_json: bool) -> None:
    """Download what a preset needs and this machine lacks, and check what is there.

    Each network in the order of its use, with progress, time limits, and SHA-256 checked where it is known. Stopped or
    cut off, run it again: it goes on in the middle of the file. A damaged file is named with what to delete.
    """
    quiet()
    from consistentid.presets.fetch import fetch_networks
    from consistentid.presets.read import load_preset

    networks = []
    for role, network, path in fetch_networks(load_preset(preset)):
        networks.append({"role": role, "source": str(network), "path": str(path) if path else None})
        if not as_json:
            click.echo(f"{role:<14} {path or 'built in'}")
    if as_json:
        print_json({"preset": preset, "networks": networks})

"""`consistentid doctor`."""

from __future__ import annotations

from typing import Any

import click

from consistentid.cli.common import debug_option, json_option, preset_option, print_json


@click.command(
    short_help="Check this machine and a preset's networks.",
    epilog="""\b
Examples:
  consistentid doctor
  consistentid doctor --preset sd15 --json""",
)
@preset_option
@json_option
@debug_option
def doctor(preset: str, as_json: bool) -> None:
    """Check this machine and what a preset needs of it: nothing is fetched or loaded.

    Says all that is missing, in the order of its use, and the one line that fetches it. Lists versions, devices,
    memory, disk and, for each network, whether it is present or would be fetched, how large it is, its revision and
    hash, and its licence; and whether a GPU needs --low-memory.

    The exit code is 0 when nothing is wrong and 2 otherwise.
    """
    from consistentid.errors import CheckpointError
    from consistentid.presets.doctor import examine
    from consistentid.presets.read import load_preset

    report = examine(load_preset(preset), preset)
    if as_json:
        print_json(report)
    else:
        click.echo(_text(report))
    if problems := report["problems"]:
        more = f" (and {len(problems) - 1} more, see above)" if len(problems) > 1 else ""
        raise CheckpointError(f"preset {preset}: {problems[0]}{more}")


def _text(report: dict[str, Any]) -> str:
    lines = [", ".join(f"{name} {number}" for name, number in report["versions"].items()), report["system"]]
    for device in report["devices"]:
        details = [f"{key} {value}" for key, value in device.items() if key != "name" and value]
        lines.append(f"device {device['name']}: {', '.join(details)}")
    memory, disk = report["memory"], report["disk"]
    lines.append(f"memory: {memory['available_mb']} of {memory['total_mb']} MB available")
    lines.append(f"disk: {disk['free_mb']} MB free at {disk['path']}")
    lines += ["", f"preset {report['preset']}"]
    for item in report["networks"]:
        size = f", {item['megabytes']} MB" if item["megabytes"] else ""
        revision = f"@{item['revision'][:12]}" if item["revision"] else ""
        details = [f"sha256 {item['sha256']}" if item["sha256"] else "", item["licence"]]
        about = ", ".join(filter(None, [item["source"] + revision, *details]))
        lines.append(f"  {item['role']:<14} {item['state'] + size:<22} {about}")
    if report["fetch"]:
        lines.append(f"  missing, {report['to_fetch_mb']} MB; this fetches all of it: {report['fetch']}")
    if report["unpinned"]:
        lines.append(f"  unpinned, so what is fetched may change: {', '.join(report['unpinned'])}")
    for fit in report["fits"]:
        verdict = "fits" if fit["fits"] else "with --low-memory" if fit["fits_low_memory"] else "does not fit"
        needs = f"{fit['whole_mb']} MB, with --low-memory {fit['low_memory_mb']}"
        lines.append(f"  on {fit['device']} in {fit['dtype']}: weights of {needs}, of {fit['memory_mb']}: {verdict}")
    lines += ["", *(f"problem: {problem}" for problem in report["problems"])]
    return "\n".join(lines if report["problems"] else [*lines, "no problems found"])

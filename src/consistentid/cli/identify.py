"""`consistentid identify`."""

from __future__ import annotations

from pathlib import Path

import click

from consistentid.cli.common import (
    EXISTING,
    captioner_option,
    check_show,
    debug_option,
    device_option,
    face_index_option,
    json_option,
    load_captioner,
    load_pipeline,
    preset_option,
    print_json,
    show_option,
    skip_bad_option,
    split_index,
    warn_of,
    write_show,
)
from consistentid.errors import InputError


@click.command(
    short_help="Save a person, so that no photo is needed later.",
    epilog="""\b
Examples:
  consistentid identify ada.png --out ada.safetensors
  consistentid identify ada.jpg party.jpg#1 --out ada.safetensors --skip-bad
  consistentid identify ada1.jpg ada2.jpg --preset sd15 --out ada.safetensors --show seen.png""",
)
@click.argument("photos", metavar="PHOTO...", nargs=-1, required=True, type=EXISTING)
@click.option("--out", required=True, type=EXISTING, help="The file to write: NAME.safetensors.")
@show_option
@click.option("--force", is_flag=True, help="Overwrite files that are there.")
@face_index_option
@skip_bad_option
@captioner_option
@preset_option
@device_option
@json_option
@debug_option
def identify(
    photos: tuple[Path, ...],
    out: Path,
    show: Path | None,
    force: bool,
    face_index: int | None,
    skip_bad: bool,
    captioner: str | None,
    preset: str,
    device: str | None,
    as_json: bool,
) -> None:
    """Save the person on the PHOTOs to a file that `consistentid generate` takes in their place.

    Several photos of one person are combined. The file holds features, no photo, and fits the preset it was made with.
    """
    from consistentid.files.images import load_image
    from consistentid.files.writing import check_folder
    from consistentid.presets.read import load_preset

    if out.suffix != ".safetensors":
        raise InputError(
            f"--out {out}: an identity file ends in .safetensors; name it {out.with_suffix('.safetensors')}"
        )
    if out.is_dir():
        raise InputError(f"{out}: is a folder; name a file in it")
    if out.exists() and not force:
        raise InputError(f"{out}: is there already; choose another name or give --force to overwrite it")
    check_folder(out.parent)
    check_show(show, force=force)
    chosen = load_preset(preset)
    paths, indices = zip(*(split_index(photo, face_index) for photo in photos), strict=True)
    for path in paths:
        load_image(path)

    studio = load_pipeline(chosen, device, None)
    sights = studio.look(*paths, face_index=indices, skip_bad=skip_bad)
    warn_of(sights)
    identity = studio.encode(sights, load_captioner(captioner, studio))
    if show:
        write_show(show, studio, sights)
    identity.save(out)
    if as_json:
        print_json(
            {
                "file": str(out),
                "preset": chosen.name,
                "photos": [
                    {
                        "photo": sight.name,
                        "faces": len(sight.faces),
                        "face_index": sight.index,
                        "face_size": round(sight.face.side),
                        "quality": round(sight.face.quality, 3),
                        "warnings": list(sight.face.warnings),
                    }
                    for sight in sights
                ],
                "parts": list(identity.visible_parts),
                "face_text": identity.face_text,
                "networks": dict(identity.provenance),
                "show": str(show) if show else None,
            }
        )
    else:
        for sight in sights:
            click.echo(f"{sight.name}  face of {sight.face.side:.0f} pixels, quality {sight.face.quality:.2f}")
        click.echo(f"{out}  parts seen: {', '.join(identity.visible_parts) or 'none'}")
        if identity.face_text:
            click.echo(f"in words: {identity.face_text}")

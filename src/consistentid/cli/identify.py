"""`consistentid identify`."""

from __future__ import annotations

from pathlib import Path

import click

from consistentid.cli.common import (
    EXISTING,
    captioner_option,
    debug_option,
    device_option,
    face_index_option,
    json_option,
    load_captioner,
    load_pipeline,
    preset_option,
    print_json,
)
from consistentid.errors import InputError

_PICTURES = (".png", ".jpg", ".jpeg", ".webp")


@click.command(
    short_help="Save a person, so that no photo is needed later.",
    epilog="""\b
Examples:
  consistentid identify ada.png --out ada.safetensors
  consistentid identify ada1.jpg ada2.jpg --preset sd15 --out ada.safetensors --show seen.png""",
)
@click.argument("photos", metavar="PHOTO...", nargs=-1, required=True, type=EXISTING)
@click.option("--out", required=True, type=EXISTING, help="The file to write: NAME.safetensors.")
@click.option("--show", type=EXISTING, help="Also draw what was seen (box, landmarks, parts) into this picture.")
@click.option("--force", is_flag=True, help="Overwrite files that are there.")
@face_index_option
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
    captioner: str | None,
    preset: str,
    device: str | None,
    as_json: bool,
) -> None:
    """Save the person on the PHOTOs to a file that `consistentid generate` takes in their place.

    Several photos of one person are combined. The file holds features, no photo, and fits the preset it was made with.
    """
    from consistentid.files.images import contact_sheet, load_image
    from consistentid.files.output import check_folder, replacing
    from consistentid.presets.read import load_preset

    if out.suffix != ".safetensors":
        raise InputError(
            f"--out {out}: an identity file ends in .safetensors; name it {out.with_suffix('.safetensors')}"
        )
    if show and show.suffix.lower() not in _PICTURES:
        raise InputError(f"--show {show}: cannot be told to be a picture; end its name in {', '.join(_PICTURES)}")
    for path in filter(None, (out, show)):
        if path.is_dir():
            raise InputError(f"{path}: is a folder; name a file in it")
        if path.exists() and not force:
            raise InputError(f"{path}: is there already; choose another name or give --force to overwrite it")
        check_folder(path.parent)
    chosen = load_preset(preset)
    images = [load_image(path) for path in photos]

    studio = load_pipeline(chosen, device, None)
    identity = studio.identify(*photos, face_index=face_index, captioner=load_captioner(captioner, studio))
    if show:
        from consistentid.faces.overlay import draw_faces

        drawn = [draw_faces(image, studio.analyzer.analyze(image)) for image in images]
        seen = drawn[0] if len(drawn) == 1 else contact_sheet([], drawn, [path.name for path in photos], 512)
        with replacing(show) as temporary:
            seen.save(temporary)
    with replacing(out) as temporary:
        identity.save(temporary)
    if as_json:
        print_json(
            {
                "file": str(out),
                "preset": chosen.name,
                "parts": list(identity.visible_parts),
                "face_text": identity.face_text,
                "networks": dict(identity.provenance),
                "show": str(show) if show else None,
            }
        )
    else:
        click.echo(f"{out}  parts seen: {', '.join(identity.visible_parts) or 'none'}")
        if identity.face_text:
            click.echo(f"in words: {identity.face_text}")

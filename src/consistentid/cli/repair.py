"""`consistentid repair`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from consistentid.cli.common import (
    EXISTING,
    debug_option,
    device_option,
    dtype_option,
    json_option,
    load_pipeline,
    low_memory_option,
    named_as,
    preset_option,
    print_json,
    progress_bar,
    provenance_options,
    read_provenance,
    warn_of,
)
from consistentid.cli.persons import (
    PersonOption,
    identify_people,
    person_option,
    person_prompt_option,
    read_people,
    regions_of,
)
from consistentid.errors import InputError

_OPTIONS = {
    "identity": "--person",
    "regions": "--person",
    "person_prompts": "--person-prompt",
    "prompt": "--prompt",
    "seed": "--seed",
    "num_inference_steps": "--steps",
    "repair_below": "--below",
    "repair_tries": "--tries",
    "image": "PICTURE",
}
"""Argument of a `Request` -> the option that gives it."""


@click.command(
    short_help="Draw the small faces of a picture anew.",
    epilog="""\b
Examples:
  consistentid repair party.png --person ada.png --prompt "a woman at a party"
  consistentid repair party.png --person ada.png@0.05,0.1,0.5,0.9 --person tom.safetensors@0.5,0.1,0.95,0.9
  consistentid repair party.png --person ada.png --below 0.5 --tries 3""",
)
@click.argument("picture", type=EXISTING)
@person_option
@person_prompt_option
@click.option("--prompt", default="a person", show_default=True, help="What is said of the faces.")
@click.option("--below", type=float, help="Also draw faces anew whose likeness is below this, whatever their size.")
@click.option("--tries", type=int, default=1, show_default=True, help="Draw a face up to so often until it is like.")
@click.option("--seed", type=int, help="Of the drawing.")
@click.option("--steps", type=int, help="Sampling steps.  [default: the preset's]")
@click.option("--out", default="out", show_default=True, type=EXISTING, help="Folder for the results.")
@provenance_options
@preset_option
@device_option
@dtype_option
@low_memory_option
@json_option
@debug_option
def repair(
    picture: Path,
    persons: list[PersonOption],
    person_prompts: tuple[str, ...],
    prompt: str,
    below: float | None,
    tries: int,
    seed: int | None,
    steps: int | None,
    out: Path,
    certificate: Path | None,
    private_key: Path | None,
    watermark: bool,
    preset: str,
    device: str | None,
    dtype: str | None,
    low_memory: bool,
    as_json: bool,
) -> None:
    """Draw the faces of PICTURE that are too small for the base model anew, at its full size, and put them back.

    One person is the largest face; of several each is in the place that is given, or the face most like them.
    Everything else of the picture stays as it is, to the last bit. Nothing is overwritten.
    """
    from consistentid.files.images import load_image
    from consistentid.files.writing import check_folder
    from consistentid.pipeline.request import Request
    from consistentid.presets.read import load_preset

    if not persons:
        raise InputError("--person is missing; say whose face is drawn, as in --person ada.png")
    chosen = load_preset(preset)
    image = load_image(picture)
    with named_as(_OPTIONS):
        request = Request(
            prompt=prompt,
            image=image,
            regions=regions_of(persons),
            person_prompts=person_prompts or None,
            seed=seed,
            num_inference_steps=steps,
            repair=True,
            repair_below=below,
            repair_tries=tries,
            progress=progress_bar("step"),
        )
        request.settings(chosen.settings)
    found = read_people(persons)
    check_folder(out)
    marks = read_provenance(certificate, private_key, watermark=watermark)
    studio = load_pipeline(chosen, device, dtype, low_memory=low_memory, provenance=marks)
    people, sights = identify_people(studio, found)
    warn_of(sights)
    with named_as(_OPTIONS):
        made = studio.repair_request(replace(request, identity=people))
    about = {"picture": str(picture), "persons": [str(person.file) for person in persons]}
    results = made.save(out, sheet=False, about=about)
    if as_json:
        print_json(results)
        return
    if not made.repairs[0]:
        click.echo("no face is small enough to be drawn anew; --below LIKENESS takes larger ones, too")
    for face in made.repairs[0]:
        change = f"likeness {face['likeness_before']:.2f} before, {face['likeness_after']:.2f} after"
        click.echo(f"{persons[face['person']].file}: {change}{'' if face['kept'] else ', so left as it was'}")
    click.echo(results["pictures"][0]["file"])

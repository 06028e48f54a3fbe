"""`consistentid generate`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from consistentid.cli.by_server import check_options, generate_by_server
from consistentid.cli.common import (
    EXISTING,
    captioner_option,
    check_show,
    debug_option,
    device_option,
    dtype_option,
    face_index_option,
    json_option,
    load_captioner,
    load_pipeline,
    low_memory_option,
    named_as,
    preset_option,
    print_json,
    progress_bar,
    provenance_options,
    read_provenance,
    show_option,
    skip_bad_option,
    split_index,
    warn_of,
    write_show,
)
from consistentid.cli.persons import (
    PersonOption,
    PersonPhoto,
    identify_people,
    person_option,
    person_prompt_option,
    read_people,
    regions_of,
)
from consistentid.errors import InputError
from consistentid.serving.address import TOKEN_VARIABLE

if TYPE_CHECKING:
    from PIL import Image

    from consistentid.adapter.identity import Identity
    from consistentid.faces.sight import Sight
    from consistentid.pipeline.portraits import Portraits


_Given = TypeVar("_Given", str, float)

_NUMBERED = re.compile(r"(\d+):(.*)", re.DOTALL)


def _parts(_context: click.Context, _option: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    pairs = [value.partition("=") for value in values]
    for value, (part, equals, text) in zip(values, pairs, strict=True):
        if not (part.strip() and equals and text.strip()):
            raise click.BadParameter(f'{value!r} is not of the form PART=TEXT, as in --part "eyes=green eyes".')
    return {part.strip(): text.strip() for part, _, text in pairs}


def _part_scales(_context: click.Context, _option: click.Parameter, values: tuple[str, ...]) -> dict[str, float]:
    pairs = [value.partition("=") for value in values]
    scales = {}
    for value, (part, _, number) in zip(values, pairs, strict=True):
        try:
            scales[part.strip()] = float(number)
        except ValueError:
            raise click.BadParameter(
                f"{value!r} is not of the form PART=NUMBER, as in --part-scale eyes=0.5."
            ) from None
    return scales


def _of_each(values: Mapping[str, _Given], people: int, option: str) -> list[dict[str, _Given]] | dict[str, _Given]:
    """`--part "2:eyes=green eyes"` for the second person; without a number for all."""
    if people < 2:
        return dict(values)
    each: list[dict[str, _Given]] = [{} for _ in range(people)]
    for part, text in values.items():
        match = _NUMBERED.fullmatch(part)
        number, name = (int(match[1]), match[2]) if match else (0, part)
        if number > people:
            raise InputError(f'{option} "{part}={text}": there are {people} people; number them from 1 in their order')
        for index in [number - 1] if match else range(people):
            each[index][name] = text
    return each


_OPTIONS = {
    "prompt": "--prompt",
    "negative_prompt": "--negative-prompt",
    "num_images_per_prompt": "--num",
    "best_of": "--best-of",
    "seed": "--seed",
    "num_inference_steps": "--steps",
    "guidance_scale": "--guidance",
    "scale": "--id-scale",
    "merge_at": "--merge-at",
    "width": "--width",
    "height": "--height",
    "image": "--image",
    "mask": "--mask",
    "strength": "--strength",
    "control": "--control",
    "control_scale": "--control-scale",
    "face_text": "--face-text",
    "parts": "--part",
    "part_scales": "--part-scale",
    "identity": "--person",
    "regions": "--person",
    "person_prompts": "--person-prompt",
    "person_scales": "--person-scale",
    "base_ratio": "--base-ratio",
    "regions_end": "--regions-end",
    "repair": "--repair",
    "repair_below": "--repair-below",
    "repair_tries": "--repair-tries",
}
"""Argument of a `Request` -> the option that gives it."""


@click.command(
    short_help="Make portraits of a person.",
    epilog="""\b
Examples:
  consistentid generate ada.png --prompt "a woman in a red hat"
  consistentid generate ada1.jpg ada2.jpg --preset sd15 --prompt "a woman on a beach" --seed 7 --num 2
  consistentid generate ada.safetensors --prompt "a woman with glasses" --part "eyes=green eyes" --best-of 8
  consistentid generate ada.png --prompt "a woman" --image party.jpg --mask face.png
  consistentid generate ada.png --preset sd15 --prompt "a woman, dancing" --control pose.png \
      --control-model lllyasviel/control_v11p_sd15_openpose
  consistentid generate --person ada.png@0.05,0.1,0.5,0.9 --person tom.safetensors@0.5,0.1,0.95,0.9 \
      --prompt "two friends at a beach" --person-prompt "a woman in a red dress" --person-prompt "a man"
  consistentid generate --person ada.png --person tom.png --prompt "two friends at a beach" --repair
  consistentid generate ada.png --prompt "a woman" --server http://127.0.0.1:7860
  consistentid generate ada.png --preset sdxl --prompt "a woman" --scheduler lightning \
      --lora ByteDance/SDXL-Lightning/sdxl_lightning_4step_lora.safetensors""",
)
@click.argument("references", metavar="REFERENCE...", nargs=-1, type=EXISTING)
@person_option
@person_prompt_option
@click.option("--prompt", required=True, help="What the pictures shall show.")
@click.option("--negative-prompt", help="What they shall not show.  [default: the preset's]")
@click.option("--num", default=4, show_default=True, type=int, help="Number of pictures.")
@click.option("--best-of", type=int, help="Make so many and keep the --num with the best likeness.")
@click.option("--seed", type=int, help="Of the first picture; the others count up from it.")
@click.option("--steps", type=int, help="Sampling steps.  [default: the preset's]")
@click.option("--guidance", type=float, help="How strictly to follow the prompt.  [default: the preset's]")
@click.option("--id-scale", type=float, help="Strength of the identity: 0 = none, 1 = as trained.")
@click.option("--merge-at", type=float, help="Fraction of the steps after which the facial details join the prompt.")
@click.option(
    "--person-scale",
    "person_scales",
    multiple=True,
    type=float,
    help="Strength of one person's identity, a factor on --id-scale; once for each --person.",
)
@click.option(
    "--base-ratio",
    type=float,
    help="Share of the prompt alone in the places of people, 0 to 1.  [default: the preset's]",
)
@click.option(
    "--regions-end",
    type=float,
    default=1.0,
    show_default=True,
    help="Fraction of the steps after which the prompt alone is followed everywhere.",
)
@click.option(
    "--repair", is_flag=True, help="Draw faces that are too small for the base anew, large, and put them back."
)
@click.option("--repair-below", type=float, help="With --repair: also faces whose likeness is below this.")
@click.option(
    "--repair-tries",
    type=int,
    default=1,
    show_default=True,
    help="With --repair: draw a face so often until it is like.",
)
@click.option("--face-text", help="A sentence about the face, which takes the place of the standard one.")
@click.option(
    "--part",
    "parts",
    multiple=True,
    callback=_parts,
    help='Words for one part: "eyes=green eyes"; of the second person "2:eyes=green eyes". Repeatable.',
)
@click.option(
    "--part-scale",
    "part_scales",
    multiple=True,
    callback=_part_scales,
    help="How much of a part's picture counts: eyes=0.5 (1 = as trained); of the second person 2:eyes=0.5. Repeatable.",
)
@click.option("--width", type=int, help="Pixels.  [default: the preset's, which may be wider for several people]")
@click.option("--height", type=int, help="Pixels.  [default: the preset's]")
@click.option("--image", type=EXISTING, help="A picture to start from, of which --strength is drawn anew.")
@click.option(
    "--mask", type=EXISTING, help="White where the person is put into the --image; the rest stays exactly as it is."
)
@click.option("--strength", type=float, help="How far the --image is drawn anew, 0 to 1.  [default: the preset's]")
@click.option("--control", type=EXISTING, help="A pose, depths or edges to follow, as a picture for a ControlNet.")
@click.option("--control-model", metavar="MODEL", help="The ControlNet: a hub id, folder or file.")
@click.option("--control-scale", type=float, help="Strength of the ControlNet.  [default: 1]")
@click.option("--base", metavar="MODEL", help="Another base model of the preset's family: a hub id, folder or file.")
@click.option(
    "--lora",
    "loras",
    metavar="MODEL[:SCALE]",
    multiple=True,
    help="A LoRA for the base: a file, folder, hub id or owner/name/file. Repeatable.",
)
@click.option(
    "--scheduler",
    help="ddim, euler, euler-a, dpm++, unipc, a class of diffusers; for few steps lcm, lightning, hyper-sd.",
)
@click.option(
    "--server",
    metavar="URL",
    help="Let a running `consistentid serve` do it, which has its networks loaded already; a token it wants is in"
    f" {TOKEN_VARIABLE}.",
)
@click.option("--out", default="out", show_default=True, type=EXISTING, help="Folder for the results.")
@click.option("--sheet/--no-sheet", default=True, show_default=True, help="Also one picture with all of them.")
@show_option
@face_index_option
@skip_bad_option
@captioner_option
@provenance_options
@preset_option
@device_option
@dtype_option
@low_memory_option
@json_option
@debug_option
def generate(
    references: tuple[Path, ...],
    persons: list[PersonOption],
    person_prompts: tuple[str, ...],
    prompt: str,
    negative_prompt: str | None,
    num: int,
    best_of: int | None,
    seed: int | None,
    steps: int | None,
    guidance: float | None,
    id_scale: float | None,
    merge_at: float | None,
    person_scales: tuple[float, ...],
    base_ratio: float | None,
    regions_end: float,
    repair: bool,
    repair_below: float | None,
    repair_tries: int,
    face_text: str | None,
    parts: dict[str, str],
    part_scales: dict[str, float],
    width: int | None,
    height: int | None,
    image: Path | None,
    mask: Path | None,
    strength: float | None,
    control: Path | None,
    control_model: str | None,
    control_scale: float | None,
    base: str | None,
    loras: tuple[str, ...],
    scheduler: str | None,
    server: str | None,
    out: Path,
    sheet: bool,
    show: Path | None,
    face_index: int | None,
    skip_bad: bool,
    captioner: str | None,
    certificate: Path | None,
    private_key: Path | None,
    watermark: bool,
    preset: str,
    device: str | None,
    dtype: str | None,
    low_memory: bool,
    as_json: bool,
) -> None:
    """Make portraits of the person on the REFERENCE photos.

    REFERENCE is one or more photos of one person, or one file that `consistentid identify` saved; several people are
    given by --person, and without places put where the base draws faces: by their --person-prompt where the preset can
    compare words with faces, else from left to right. Writes a PNG for each picture, results.json and a contact sheet
    to the --out folder, and prints each picture's likeness to the reference: the cosine of the two faces in the
    preset's face recogniser, 1 = identical. Nothing is overwritten.
    """
    from consistentid.files.writing import check_folder
    from consistentid.pipeline.request import Request
    from consistentid.presets.read import load_preset

    # All that can be refused without a network is refused first: loading them is slow.
    if captioner is not None and (face_text is not None or parts):
        raise InputError("--captioner writes the facial sentence; leave out --face-text and --part, or the captioner")
    if control_model is not None and control is None:
        raise InputError("--control-model says how --control is used; give --control, too, or leave it out")
    if bool(references) == bool(persons):
        raise InputError("give either REFERENCE photos of one person, or --person for each of several people")
    for option, values in (("--person-prompt", person_prompts), ("--person-scale", person_scales)):
        if values and len(values) != max(len(persons), 1):
            raise InputError(
                f"{len(values)} {option} for {max(len(persons), 1)} people; give one for each, in their order"
            )
    if server is not None:
        check_options()
    networks: dict[str, Any] = {"base": base, "controlnet": control_model, "scheduler": scheduler}
    networks = {name: value for name, value in networks.items() if value is not None}
    if loras:
        networks["loras"] = loras
    chosen = load_preset(preset).override(**networks)
    with named_as(_OPTIONS):
        request = Request(
            prompt=prompt,
            negative_prompt=negative_prompt,
            num_images_per_prompt=num,
            best_of=best_of,
            seed=seed,
            num_inference_steps=steps,
            guidance_scale=guidance,
            scale=id_scale,
            merge_at=merge_at,
            width=width,
            height=height,
            image=image,
            mask=mask,
            strength=strength,
            control=control,
            control_scale=control_scale,
            face_text=face_text,
            parts=_of_each(parts, len(persons), "--part"),
            part_scales=_of_each(part_scales, len(persons), "--part-scale"),
            regions=regions_of(persons),
            person_prompts=person_prompts or None,
            person_scales=person_scales or None,
            base_ratio=base_ratio,
            regions_end=regions_end,
            repair=repair,
            repair_below=repair_below,
            repair_tries=repair_tries,
            progress=progress_bar("step"),
        )
        request.settings(chosen.settings)
    if control and not chosen.controlnet and server is None:
        raise InputError("--control is a picture for a ControlNet, and none is chosen; name one with --control-model")
    chosen_faces = [split_index(path, face_index) for path in references]
    who, photos = _read_references(tuple(path for path, _ in chosen_faces)) if references else (None, [])
    people = read_people(persons)
    for name, value in (("--captioner", captioner), ("--show", show)):
        if who and value is not None:
            raise InputError(f"{name}: {references[0]} holds no photo; give it to `consistentid identify` instead")
    check_folder(out)
    marks = read_provenance(certificate, private_key, watermark=watermark)
    check_show(show)

    if persons:
        photos = [one.picture for one in people if isinstance(one, PersonPhoto)]
    known = [who] if who else people
    if server is not None:
        made: Portraits = generate_by_server(
            server, request, [] if who else chosen_faces, known, chosen.name, skip_bad=skip_bad
        )
    else:
        studio = load_pipeline(chosen, device, dtype, low_memory=low_memory, provenance=marks)
        describe = load_captioner(captioner, studio)
        identity: Identity | list[Identity]
        sights: list[Sight] = []
        if persons:
            identity, sights = identify_people(studio, people, describe)
        elif who:
            identity = who
        else:
            paths, indices = zip(*chosen_faces, strict=True)
            sights = studio.look(*paths, face_index=indices, skip_bad=skip_bad)
            identity = studio.encode(sights, describe)
        warn_of(sights)
        if show:
            write_show(show, studio, sights)
        with named_as(_OPTIONS):
            made = studio.generate(replace(request, identity=identity))
    pictures = {"image": image, "mask": mask, "control": control}
    models = {"base": base, "control_model": control_model, "loras": list(loras) or None}
    about = {
        "references": [str(path) for path in [*references, *(person.file for person in persons)]],
        **{name: str(path) for name, path in pictures.items() if path},
        "models": {name: value for name, value in models.items() if value},
    }
    results = made.save(out, sheet=sheet, references=photos, about=about)
    if as_json:
        print_json(results)
        return
    for number, item in enumerate(results["pictures"]):
        click.echo("  ".join(filter(None, [item["file"], made.likeness(number), made.placement(number)])))
    if sheet:
        click.echo(results["sheet"])


def _read_references(references: tuple[Path, ...]) -> tuple[Identity | None, list[Image.Image]]:
    """The saved identity, or else the photos, of which one says at once which cannot be read."""
    from consistentid.files.images import load_image

    saved = [path for path in references if path.suffix == ".safetensors"]
    if not saved:
        return None, [load_image(path) for path in references]
    if len(references) > 1:
        raise InputError(f"{saved[0]}: a saved identity stands alone; give either photos or one identity file")
    from consistentid.adapter.identity import Identity

    return Identity.load(saved[0]), []

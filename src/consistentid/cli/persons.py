"""`--person FILE@WHERE`: who is in a picture, and where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from consistentid.cli.common import split_index
from consistentid.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

    from consistentid.adapter.identity import Identity
    from consistentid.faces.caption import Captioner
    from consistentid.faces.sight import Sight
    from consistentid.pipeline.pipeline import ConsistentIDPipeline


@dataclass(frozen=True)
class PersonOption:
    """What one `--person` says.

    Attributes:
        file: a photo or a saved identity.
        where: a box in fractions of the picture, or the file of a mask; None = left open.
    """

    file: Path
    where: tuple[float, ...] | Path | None = None


def _parse(_context: click.Context, _option: click.Parameter, values: tuple[str, ...]) -> list[PersonOption]:
    return [_person(value) for value in values]


def _person(value: str) -> PersonOption:
    file, at, where = value.rpartition("@")
    if not at or Path(value).exists():  # a file's name may have an @ in it
        return PersonOption(Path(value))
    if Path(where).exists() or "," not in where:
        return PersonOption(Path(file), Path(where))
    try:
        box = tuple(float(number) for number in where.split(","))
    except ValueError:
        box = ()
    if len(box) != 4 or not file:
        raise click.BadParameter(
            f"{value!r} is not of the form FILE@LEFT,TOP,RIGHT,BOTTOM, fractions of the picture as in"
            " ada.png@0.05,0.1,0.5,0.9, or FILE@MASK.png."
        )
    return PersonOption(Path(file), box)


person_option = click.option(
    "--person",
    "persons",
    metavar="FILE[@WHERE]",
    multiple=True,
    callback=_parse,
    help="One of several people: a photo or a saved identity, and where they are: LEFT,TOP,RIGHT,BOTTOM in fractions of"
    " the picture, or the file of a mask. Repeatable.",
)
person_prompt_option = click.option(
    "--person-prompt",
    "person_prompts",
    metavar="TEXT",
    multiple=True,
    help="Words about one person alone, such as 'a woman in a red dress'; once for each --person, in their order.",
)


def regions_of(persons: Sequence[PersonOption]) -> list[Any] | None:
    """The regions of all people, or None where none is given.

    Raises:
        InputError: some people have one and others not.
    """
    places = [person.where for person in persons]
    if all(place is None for place in places):
        return None
    if None in places:
        raise InputError(
            f"--person {persons[places.index(None)].file} has no place and another --person has; give @WHERE to all of"
            " them, or to none for automatic places"
        )
    return places


@dataclass(frozen=True)
class PersonPhoto:
    """A photo of one person, which has been read.

    Attributes:
        file: where it is.
        face_index: which of its faces, if that was said.
        picture: what it shows.
    """

    file: Path
    face_index: int | None
    picture: Image.Image


def read_people(persons: Sequence[PersonOption]) -> list[Identity | PersonPhoto]:
    """The saved identities and the photos, so that one says at once which cannot be read."""
    from consistentid.adapter.identity import Identity
    from consistentid.files.images import load_image

    found: list[Identity | PersonPhoto] = []
    for person in persons:
        if person.file.suffix == ".safetensors":
            found.append(Identity.load(person.file))
        else:
            file, face_index = split_index(person.file, None)
            found.append(PersonPhoto(file, face_index, load_image(file)))
    return found


def identify_people(
    studio: ConsistentIDPipeline, found: Sequence[Identity | PersonPhoto], captioner: Captioner | None = None
) -> tuple[list[Identity], list[Sight]]:
    """The people of `read_people`, photos identified, and what was seen on these."""
    people: list[Identity] = []
    sights: list[Sight] = []
    for one in found:
        if isinstance(one, PersonPhoto):
            seen = studio.look(one.file, face_index=one.face_index)
            people.append(studio.encode(seen, captioner))
            sights += seen
        else:
            people.append(one)
    return people, sights

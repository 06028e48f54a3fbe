"""`consistentid generate --server URL`: a running service does it, which has its networks loaded already."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from consistentid.cli.common import quiet
from consistentid.cli.persons import PersonPhoto
from consistentid.errors import InputError
from consistentid.serving.address import TOKEN_VARIABLE

if TYPE_CHECKING:
    from consistentid.adapter.identity import Identity
    from consistentid.pipeline.portraits import Portraits
    from consistentid.pipeline.request import Request

_OF_THE_SERVICE = {
    "base": "--base", "control_model": "--control-model", "loras": "--lora", "scheduler": "--scheduler",
    "captioner": "--captioner", "show": "--show", "device": "--device", "dtype": "--dtype",
    "low_memory": "--low-memory", "certificate": "--certificate", "private_key": "--private-key",
    "watermark": "--watermark",
}  # fmt: skip
"""Options about networks and marks, which the service has chosen for all."""


def is_said(name: str) -> bool:
    """Whether an option stands on the command line."""
    return click.get_current_context().get_parameter_source(name) is not ParameterSource.DEFAULT


def check_options() -> None:
    """Makes sure that nothing is asked for that is the service's to choose.

    Raises:
        InputError: something is.
    """
    for name, option in _OF_THE_SERVICE.items():
        if is_said(name):
            raise InputError(f"{option} says what a service has chosen for itself; leave out --server or it")


def generate_by_server(
    url: str,
    request: Request,
    photos: Sequence[tuple[Path, int | None]],
    people: Sequence[Identity | PersonPhoto],
    preset: str,
    *,
    skip_bad: bool,
) -> Portraits:
    """The portraits of a request, by a service.

    Args:
        url: of the service.
        request: without its identity.
        photos: of one person, each with the number of the face if one is said; or none.
        people: saved identities, and photos of one person each.
        preset: which the service must have, where the command line names one.
        skip_bad: leave out photos that cannot be used.

    Raises:
        InputError: the faces of several photos are chosen one by one.
        ServerError: nobody is there, another version or preset, no token, a refusal.
    """
    from consistentid.files.images import MAX_BYTES
    from consistentid.files.reading import read_bytes
    from consistentid.serving.client import Client

    quiet()
    if len({index for _, index in photos}) > 1:
        raise InputError("--server takes one --face-index for all photos; leave out PHOTO#NUMBER, or --server")

    def say(text: str) -> None:
        click.echo(f"note: {text}", err=True)

    def photo(path: Path) -> bytes:
        return read_bytes(path, MAX_BYTES, what="picture")

    with Client(url, os.environ.get(TOKEN_VARIABLE), say) as client:
        client.wait(preset if is_said("preset") else None)
        if photos:  # made as they are here, while the file of an identity holds it in half precision
            return client.generate(
                request, photos=[photo(path) for path, _ in photos], face_index=photos[0][1], skip_bad=skip_bad
            )
        identities = []
        for one in people:
            if isinstance(one, PersonPhoto):
                identities.append(client.identify(photo(one.file), one.face_index))
            else:
                identities.append(one.to_bytes())
        return client.generate(request, identities)

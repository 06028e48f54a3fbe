"""Recipes: a YAML file that holds the settings of a training. Which sections there are, and who reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

from consistentid.errors import InputError
from consistentid.files.config import Between
from consistentid.files.documents import read_config

COMMON: Final = ("size", "precision", "compile", "pictures", "groups")
"""What stands beside the sections: side of the pictures, arithmetic of the drawn preset's networks and whether some are
compiled, drawn pictures of one person and of several."""

NETWORKS: Final = (
    "autoencoder", "decoder", "clip", "parser", "recogniser", "teacher", "judge", "scene_reader", "latent_reader",
    "unet",
)  # fmt: skip
"""Sections of the drawn preset's own networks, which `consistentid.training.drawn` reads."""

ADAPTER: Final = "adapter"
"""The section that `consistentid train` reads."""

SECTIONS: Final = (*COMMON, *NETWORKS, ADAPTER)


@dataclass(frozen=True)
class Groups:
    """The section ``groups``: drawn pictures of several people.

    Attributes:
        share: of the batches of autoencoder, decoder, UNet and parser that show them.
        train, validation: the pools of a split, each the fields of a `PoolSpec` with `together` above 1.
    """

    share: Annotated[float, Between(0, 1)] = 0.0
    train: tuple[dict[str, Any], ...] = ()
    validation: tuple[dict[str, Any], ...] = ()


def load_recipe(path: Path, changes: Sequence[str] = (), reads: Sequence[str] = SECTIONS) -> dict[str, Any]:
    """The sections of a recipe.

    Args:
        path: YAML file. With a key ``extends`` it only says what differs from another recipe, whose path it gives
            relative to itself; mappings are merged, everything else is replaced, and ``adapter.change_kept``, which is
            about what learns in one run. Paths in a file are relative to it.
        changes: "section.option=value" with the value in YAML, such as ``adapter.schedule.lr=1e-4``; paths in them are
            relative to the working folder.
        reads: sections that the caller reads; a change of another would have no effect.

    Raises:
        InputError: not a recipe, a section that is unknown, or a change that is not of that form or of another section.
    """
    for change in changes:
        section = change.partition("=")[0].split(".")[0]
        if section in SECTIONS and section not in reads:
            raise InputError(f"--set {change}: nothing reads {section!r} here; read are {', '.join(reads)}")
    content = read_config(path, "recipe", changes=changes, whole=(f"{ADAPTER}.change_kept",))
    if unknown := sorted(str(name) for name in set(content) - set(SECTIONS)):
        raise InputError(
            f"{path}: unknown sections {', '.join(unknown)}; known are {', '.join(SECTIONS)}, and an option of the"
            f" adapter is one of its section: {ADAPTER}.schedule.lr"
        )
    return content

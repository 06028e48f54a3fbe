"""The classes of a base's components: its model_index.json names them, and only known ones are imported."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, Final

from consistentid.errors import CheckpointError

_LIBRARIES: Final = ("diffusers", "transformers")
_OWN_MODULES: Final = ("consistentid.nn.patch_autoencoder", "consistentid.drawn.autoencoder")
"""Modules of this package that saved bases name."""


def component_classes(config: Mapping[str, Any], base: str) -> dict[str, Any]:
    """The class of each component that a base has, by the component's name.

    To import whatever the file names would run code that came with the base.

    Args:
        config: content of model_index.json.
        base: name for messages.

    Raises:
        CheckpointError: a class, or the pipeline's own, that is none of diffusers, transformers or this package.
    """
    _class("diffusers", config.get("_class_name"), f"{base}: the pipeline")
    return {
        name: _class(component[0], component[1], f"{base}: the component {name}")
        for name, component in config.items()
        if isinstance(component, list) and len(component) == 2 and component[0] is not None
    }


def _class(library: Any, name: Any, what: str) -> Any:
    from diffusers import pipelines
    from diffusers.utils.deprecation_utils import _TRANSFORMERS_CLASS_REMAPPING

    found: Any = None
    if isinstance(library, str) and isinstance(name, str):
        if library in (*_LIBRARIES, *_OWN_MODULES):
            # names that many published bases carry and transformers has dropped, as diffusers maps them
            name = _TRANSFORMERS_CLASS_REMAPPING.get(name, {}).get("new_class", name)
            found = getattr(import_module(library), name, None)
        elif library in pipelines._import_structure:  # a folder of diffusers, as for the safety checker
            found = getattr(getattr(pipelines, library), name, None)
    if not isinstance(found, type) or found.__module__.partition(".")[0] not in (*_LIBRARIES, "consistentid"):
        raise CheckpointError(
            f"{what} is {name!r} of {library!r} in model_index.json, which is no class of diffusers or transformers as"
            " they are installed; code that comes with a base is not run: choose another base"
        )
    return found

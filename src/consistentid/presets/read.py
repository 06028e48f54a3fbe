"""Presets from YAML files: one of this package by name, or the user's own by path. Paths are relative to the file.

A file with ``extends: sd15`` only says what differs from another preset: its name, or the path of its file or folder.
Networks are replaced whole, settings one by one.
"""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

from consistentid.errors import InputError
from consistentid.files.config import build
from consistentid.files.documents import read_config
from consistentid.presets.preset import ROLES, Preset
from consistentid.presets.settings import needed_settings

FILE_NAME = "preset.yaml"
"""Name of the YAML file inside a preset folder."""


def preset_names() -> list[str]:
    """Names of the presets that come with the package."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.yaml"))


def load_preset(name_or_path: str | PathLike[str]) -> Preset:
    """Read a preset: a name of `preset_names`, a YAML file, or a folder that holds `preset.yaml`.

    Raises:
        InputError: no such preset, or its YAML is not as it should be.
    """
    path = _place(str(name_or_path), Path())
    if not path.is_file() or path.suffix not in (".yaml", ".yml"):
        raise InputError(
            f"unknown preset {str(name_or_path)!r}; known presets are {', '.join(preset_names())},"
            f" or give a YAML file or a folder that holds {FILE_NAME}"
        )
    whole = (*ROLES, "scheduler_options")
    content = read_config(path, "preset", find=_extended, expand=_with_needed_settings, whole=whole)
    return build(Preset, {"name": path.stem, "about": "", **content}, str(path))


def _place(name: str, folder: Path) -> Path:
    """The file of a preset by its name or path, seen from a folder."""
    if name in preset_names():
        return Path(__file__).parent / f"{name}.yaml"
    path = folder / Path(name).expanduser()
    return path / FILE_NAME if path.is_dir() else path


def _extended(name: str, folder: Path) -> Path:
    path = _place(name, folder)
    if not path.is_file():
        known = ", ".join(preset_names())
        raise InputError(
            f"a preset in {folder} extends {name!r}, which is none; known presets are {known}, or give a path"
        )
    return path


def _with_needed_settings(content: dict[str, Any]) -> dict[str, Any]:
    """What a preset's file says, and what the scheduler that it names needs, which only the same file may overrule."""
    scheduler, settings = content.get("scheduler"), content.get("settings") or {}
    if not isinstance(scheduler, str) or not isinstance(settings, dict):
        return content
    return content | {"settings": {**needed_settings(scheduler), **settings}}

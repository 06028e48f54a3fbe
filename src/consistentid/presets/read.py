"""Presets from YAML files: one of this package by name, or the user's own by path. Paths are relative to the file.

A file with ``extends: sd15`` only says what differs from another preset: its name, or the path of its file or folder.
Networks are replaced whole, settings one by one.
"""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from consistentid.errors import InputError
from consistentid.files.config import build, parse_yaml, read_config
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
    if str(name_or_path) in preset_names():
        return _parse(Path(__file__).parent / f"{name_or_path}.yaml")
    path = Path(name_or_path)
    if path.is_dir():
        path = path / FILE_NAME
    if not path.is_file() or path.suffix not in (".yaml", ".yml"):
        raise InputError(
            f"unknown preset {str(name_or_path)!r}; known presets are {', '.join(preset_names())},"
            f" or give a YAML file or a folder that holds {FILE_NAME}"
        )
    return _parse(path)


def _parse(path: Path) -> Preset:
    data = read_config(path, "preset", find=_extended, whole=(*ROLES, "scheduler_options"))
    own = parse_yaml(path.read_bytes(), str(path))  # without what it extends
    scheduler, settings = own.get("scheduler"), data.get("settings") or {}
    if isinstance(scheduler, str) and isinstance(settings, dict):  # it needs what only the same file may overrule
        data["settings"] = {**settings, **needed_settings(scheduler), **(own.get("settings") or {})}
    return build(Preset, {"name": path.stem, "about": "", **data}, str(path))


def _extended(name: str, folder: Path) -> Path:
    if name in preset_names():
        return Path(__file__).parent / f"{name}.yaml"
    path = folder / Path(name).expanduser()
    path = path / FILE_NAME if path.is_dir() else path
    if not path.is_file():
        known = ", ".join(preset_names())
        raise InputError(
            f"a preset in {folder} extends {name!r}, which is none; known presets are {known}, or give a path"
        )
    return path

"""Presets from YAML files: one of this package by name, or the user's own by path. Paths are relative to the file."""

from __future__ import annotations

from dataclasses import fields
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

import yaml

from consistentid.errors import InputError, first_line
from consistentid.presets.network import Lora, Network
from consistentid.presets.preset import OPTIONAL_ROLES, ROLES, Preset
from consistentid.presets.settings import Settings, needed_settings

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
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise InputError(f"{path}: cannot be read as YAML ({first_line(error)}); correct the file") from None
    data = {"name": path.stem, "about": "", **_keys(data, Preset, path, "the preset")}
    for role in ROLES:
        if data.get(role) is None:
            data.pop(role, None)
        else:
            data[role] = _network(data[role], Network, path, role)
    data["loras"] = tuple(_network(source, Lora, path, "loras") for source in data.get("loras") or ())
    required = [role for role in ROLES if role not in OPTIONAL_ROLES]
    if missing := [role for role in required if role not in data]:
        raise InputError(f"{path}: lacks {', '.join(missing)}; a preset names {', '.join(required)}")
    settings = _keys(data.pop("settings", None) or {}, Settings, path, "settings")
    try:
        needed = needed_settings(data.get("scheduler", ""))
        return Preset(**data, settings=Settings(**{**needed, **settings}))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


_N = TypeVar("_N", bound=Network)


def _network(source: Any, kind: type[_N], path: Path, where: str) -> _N:
    """A network as the YAML file at `path` describes it."""
    if isinstance(source, str):
        source = {"path" if source.startswith((".", "/", "~")) else "repo": source}
    values = _keys(source, kind, path, where)
    if "path" in values:
        values["path"] = (path.parent.resolve() / Path(values["path"]).expanduser()).resolve()
    if "config" in values:
        values["config"] = _network(values["config"], Network, path, f"config of {where}")
    for name in ("files", "parameters"):
        values[name] = tuple(values.get(name, ()))
    return kind(**values)


def _keys(data: Any, kind: type, path: Path, where: str) -> dict[str, Any]:
    allowed = [item.name for item in fields(kind)]
    if not isinstance(data, dict):
        raise InputError(f"{path}: {where} is {data!r}; write a mapping with {', '.join(allowed)}")
    if unknown := sorted(str(key) for key in data.keys() - set(allowed)):
        raise InputError(f"{path}: {where} has unknown {', '.join(unknown)}; allowed are {', '.join(allowed)}")
    return dict(data)

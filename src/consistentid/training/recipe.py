"""Recipes: a YAML file that holds the settings of a training, read into typed and checked values."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

from consistentid.errors import InputError, first_line

T = TypeVar("T")


def load_recipe(path: Path, changes: Sequence[str] = ()) -> dict[str, Any]:
    """The sections of a recipe.

    Args:
        path: YAML file. With a key ``extends`` it only says what differs from another recipe, whose path it gives
            relative to itself; mappings are merged, everything else is replaced.
        changes: "section.option=value" with the value in YAML, such as ``adapter.schedule.lr=1e-4``.

    Raises:
        InputError: not a recipe, or a change that is not of that form.
    """
    content = _read(path)
    for change in changes:
        name, equals, value = change.partition("=")
        if not equals or not all(name.split(".")):
            raise InputError(f"--set {change!r} is not of the form section.option=value")
        try:
            parsed = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise InputError(f"--set {change!r}: its value is not YAML ({first_line(error)})") from None
        for key in reversed(name.split(".")):
            parsed = {key: parsed}
        content = _merged(content, parsed)
    return content


def build(kind: type[T], values: Any, where: str) -> T:
    """An instance of a dataclass from plain values, those of nested dataclasses included.

    Args:
        kind: the dataclass; its fields are the options there are.
        values: mapping of options.
        where: names the mapping in messages.

    Raises:
        InputError: an unknown option, one that is missing, or a value of the wrong kind; the message says what is
            allowed.
    """
    known = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]
    if not isinstance(values, Mapping):
        raise InputError(f"{where} is {values!r}; write a mapping with {', '.join(known)}")
    if unknown := sorted(str(name) for name in set(values) - set(known)):
        raise InputError(f"{where} has unknown options {', '.join(unknown)}; known are {', '.join(known)}")
    needed = [n for n, field in known.items() if field.default is MISSING and field.default_factory is MISSING]
    if missing := [name for name in needed if name not in values]:
        raise InputError(f"{where} lacks {', '.join(missing)}")
    hints = typing.get_type_hints(kind)
    given = {name: _converted(hints[name], value, f"{where}.{name}") for name, value in values.items()}
    try:
        return kind(**given)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def _converted(hint: Any, value: Any, where: str) -> Any:
    if isinstance(hint, types.UnionType):  # X | None
        return None if value is None else _converted(hint.__args__[0], value, where)
    if is_dataclass(hint):
        return build(typing.cast(type, hint), value, where)
    origin = typing.get_origin(hint)
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(_converted(hint.__args__[0], item, where) for item in value)
    if origin is dict and isinstance(value, Mapping):
        return dict(value)
    if hint is float and isinstance(value, int | str) and not isinstance(value, bool):
        try:
            return float(value)  # YAML takes 1e-4 for a text
        except ValueError:
            pass
    elif type(value) is (origin or hint):
        return value
    name = {tuple: "a list", dict: "a mapping", float: "a number", int: "an integer", str: "a text"}
    raise InputError(f"{where} is {value!r}; give {name.get(origin or hint, 'true or false')}")


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path}: not a readable recipe ({first_line(error)})") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: a recipe is a mapping of sections; see recipes/drawn.yaml")
    if "extends" not in content:
        return content
    other = content.pop("extends")
    merged: dict[str, Any] = _merged(_read(path.parent / str(other)), content)
    return merged


def _merged(base: Any, change: Any) -> Any:
    if not isinstance(base, dict) or not isinstance(change, dict):
        return change
    return base | {key: _merged(base.get(key), value) for key, value in change.items()}

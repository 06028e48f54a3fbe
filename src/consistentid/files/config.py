"""Plain values, such as a file of settings holds, as dataclasses: names, types and ranges are checked at every level.

A dataclass says what is allowed: by the types of its fields, and by rules beside them, as in
``steps: Annotated[int, Between(1, 500)]``. `build` checks what a file says, `check` what a call says, by these rules.
`documents` reads the files.

Own code, because the message is the work: file, key, value, what is allowed, the names there are. pydantic where it is
strict takes no mapping for a dataclass and no list for a tuple, where it is not takes "1" for a number, and would need
each of its errors put into other words.
"""

from __future__ import annotations

import math
import numbers
import reprlib
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from consistentid.errors import ConsistentIDError, InputError

T = TypeVar("T")


@dataclass(frozen=True)
class Between:
    """Numbers that a field may hold: from `low` to `high`, without `low` itself where it is `open`."""

    low: float = -math.inf
    high: float = math.inf
    open: bool = False

    def allows(self, value: float) -> bool:
        """Whether it may hold this number."""
        return (value > self.low if self.open else value >= self.low) and value <= self.high

    def __str__(self) -> str:
        if self.high < math.inf:
            return f"above {self.low:g} up to {self.high:g}" if self.open else f"from {self.low:g} to {self.high:g}"
        return f"above {self.low:g}" if self.open else f"of at least {self.low:g}"


@dataclass(frozen=True)
class OneOf:
    """Texts that a field may hold, where they are known only when the program runs; else `Literal` says it."""

    values: Sequence[str]


@dataclass(frozen=True)
class PathOrName:
    """A text that is a path, made complete, if there is such a file beside the one that says it; else a name.

    `names` are never paths, whatever lies there.
    """

    names: tuple[str, ...] = ()


class Text(str):
    """A text of a file of settings; paths in it are relative to `folder`."""

    folder: Path

    def __new__(cls, value: str, folder: Path) -> Text:
        """A text of a file in that folder."""
        text = super().__new__(cls, value)
        text.folder = folder
        return text


def build(kind: type[T], values: Any, file: str, section: str = "", error: type[ConsistentIDError] = InputError) -> T:
    """An instance of a dataclass from plain values, those of nested dataclasses included.

    Args:
        kind: the dataclass; its fields are the options there are. With a class method ``from_text`` a text may stand
            for it, of which that makes the mapping.
        values: mapping of options, as `read_config` gives it.
        file: where they come from, for messages.
        section: names of the options that lead to the mapping, with dots between them.
        error: kind to raise.

    Raises:
        error: an unknown option, one that is missing, or a value of another type or out of its range; the message says
            what is allowed.
    """
    return _built(kind, values, _Place(file, section, error))


def check(instance: Any) -> None:
    """Hold the fields of a dataclass against their types and rules, for its ``__post_init__``; numbers of numpy and
    lists for tuples become what the field says.

    Raises:
        InputError: a value that is not allowed.
    """
    for field in fields(instance):
        value = getattr(instance, field.name)
        right = _converted(_hints(type(instance))[field.name], value, _Place("", field.name, InputError))  # type: ignore[arg-type]  # a class is
        if right is not value:
            object.__setattr__(instance, field.name, right)


def plain(value: Any) -> Any:
    """Values as `read_config` gives them without the folders that their texts remember."""
    if isinstance(value, Mapping):
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, str) else value


class _Place(typing.NamedTuple):
    """Where a value stands, and how to complain about it."""

    file: str
    keys: str
    error: type[ConsistentIDError]

    def __str__(self) -> str:
        return f"{self.file}: {self.keys}" if self.file and self.keys else self.file or self.keys

    def at(self, name: object) -> _Place:
        return self._replace(keys=f"{self.keys}.{name}" if self.keys else str(name))

    def refused(self, value: Any, remedy: str) -> ConsistentIDError:
        return self.error(f"{self}={told(value)} is not allowed; give {remedy}")


def _built(kind: type[T], values: Any, place: _Place) -> T:
    from_text = getattr(kind, "from_text", None)
    if isinstance(values, str) and from_text:
        values = from_text(values)
    known = {field.name: field for field in fields(kind) if field.init}  # type: ignore[arg-type]
    if not isinstance(values, Mapping):
        raise place.error(f"{place} is {told(values)}; write a mapping with {', '.join(known)}")
    if unknown := sorted(told(name).strip("'") for name in values if name not in known):
        raise place.error(f"{place} has unknown options {', '.join(unknown)}; known are {', '.join(known)}")
    needed = [n for n, field in known.items() if field.default is MISSING and field.default_factory is MISSING]
    if missing := [name for name in needed if name not in values]:
        raise place.error(f"{place} lacks {', '.join(missing)}; known are {', '.join(known)}")
    hints = _hints(kind)  # type: ignore[arg-type]  # a class is
    given = {str(name): _converted(hints[name], value, place.at(name)) for name, value in values.items()}
    try:
        return kind(**given)
    except InputError as problem:
        raise place.error(f"{place}: {problem}") from None


@cache  # they are texts that have to be evaluated
def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind, include_extras=True)


def _converted(hint: Any, value: Any, place: _Place, rules: tuple[Any, ...] = ()) -> Any:
    """The value as the type that a field has, with the rules beside it."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _converted(inner[0], value, place, inner[1:])
    if origin in (types.UnionType, typing.Union):  # X | None
        if value is None and types.NoneType in inner:
            return None
        return _converted(next(x for x in inner if x is not types.NoneType), value, place, rules)
    if hint is Any or hint is object:
        return _finite(plain(value), place)
    if origin is typing.Literal:
        if not any(value == x and type(value) in (type(x), Text) for x in inner):
            raise place.refused(value, f"one of {', '.join(map(str, inner))}")
        return str(value) if isinstance(value, str) else value
    if is_dataclass(hint):
        return value if isinstance(value, typing.cast(type, hint)) else _built(typing.cast(type, hint), value, place)
    if hint in (int, float):
        return _number(hint, value, place, rules)
    if hint is str and isinstance(value, str):
        return _text(value, place, rules)
    if hint is bool and isinstance(value, bool):
        return value
    if hint is Path and isinstance(value, str | Path):
        return (getattr(value, "folder", Path.cwd()) / Path(value).expanduser()).resolve()
    if origin is tuple and isinstance(value, list | tuple):
        if inner[-1] is not Ellipsis and len(inner) != len(value):
            raise place.refused(value, f"a list of {len(inner)}")
        kinds = [inner[0]] * len(value) if inner[-1] is Ellipsis else inner
        items = [_converted(kind, item, place.at(n)) for n, (kind, item) in enumerate(zip(kinds, value, strict=True))]
        return tuple(items)
    if origin in (dict, Mapping) and isinstance(value, Mapping):
        if wrong := [key for key in value if not isinstance(key, str)]:
            raise place.refused(wrong[0], "a text as its key")
        return {str(key): _converted(inner[1], item, place.at(key)) for key, item in value.items()}
    names = {str: "a text", bool: "true or false", Path: "a path", tuple: "a list", dict: "a mapping"}
    raise place.refused(value, names.get(origin or hint, "a mapping"))


def _finite(value: Any, place: _Place) -> Any:
    """A plain value that is not looked into otherwise, all of whose numbers are some."""
    if isinstance(value, float) and not math.isfinite(value):
        raise place.refused(value, "a number that is finite")
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, item in inside:
        _finite(item, place.at(name))
    return value


def _number(kind: type, value: Any, place: _Place, rules: tuple[Any, ...]) -> Any:
    allowed: type = numbers.Integral if kind is int else numbers.Real
    between = next((rule for rule in rules if isinstance(rule, Between)), Between())
    number: Any = None
    if isinstance(value, allowed) and not isinstance(value, bool):
        number = kind(value)
    if number is None or not math.isfinite(number) or not between.allows(number):
        name = "an integer" if kind is int else "a number"
        raise place.refused(value, f"{name} {between}" if between != Between() else f"{name} that is finite")
    return value if type(value) is kind else number


def _text(value: str, place: _Place, rules: tuple[Any, ...]) -> str:
    for rule in rules:
        if isinstance(rule, OneOf) and value not in rule.values:
            raise place.refused(value, f"one of {', '.join(rule.values)}")
        if isinstance(rule, PathOrName):
            file = getattr(value, "folder", Path.cwd()) / Path(value).expanduser()
            if value not in rule.names and (value.startswith((".", "~")) or file.exists()):
                return str(file.resolve())
    return str(value)


def told(value: Any) -> str:
    """A value as a message shows it: its beginning, if it is long."""
    return _short.repr(plain(value))


_short = reprlib.Repr()
_short.maxstring = _short.maxother = 80
_short.maxlevel = 3

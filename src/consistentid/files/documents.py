"""Files of settings in YAML or JSON as plain values: bounded in size and depth, and they may extend one another."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml

from consistentid.errors import ConsistentIDError, InputError, first_line
from consistentid.files.config import Text, told
from consistentid.files.reading import MAX_DEPTH, parse_json, read_bytes, too_deep

MAX_CONFIG_BYTES: Final = 1 << 18
"""Size above which a file of settings is refused."""

_LONGEST_CHAIN: Final = 10  # files that extend one another


def read_config(
    path: str | Path,
    what: str,
    *,
    changes: Sequence[str] = (),
    find: Callable[[str, Path], Path] = lambda name, folder: folder / name,
    expand: Callable[[dict[str, Any]], dict[str, Any]] = lambda content: content,
    whole: Collection[str] = (),
    error: type[ConsistentIDError] = InputError,
) -> dict[str, Any]:
    """The mapping that a YAML or JSON file holds, as plain values with `Text` for texts.

    Args:
        path: of the file. With a key ``extends`` it only says what differs from another file, whose path it gives
            relative to itself; mappings are merged, everything else is replaced.
        what: the file is, for messages: "recipe".
        changes: "section.option=value" with the value in YAML, such as ``adapter.schedule.lr=1e-4``; paths in them
            are relative to the working folder.
        find: the file that a value of ``extends`` names, seen from a folder.
        expand: what a file says by what it says, before it is merged with the file that it extends.
        whole: options that are replaced also where both are mappings; of a section, "section.option".
        error: kind to raise.

    Raises:
        error: the file cannot be read, is no mapping, is too large or nested too deep, says something twice, extends
            itself; or a change is not of that form.
    """
    content = _read(Path(path), _Reading(what, find, expand, whole, error), ())
    for change in changes:
        name, equals, value = change.partition("=")
        names = name.split(".")
        if not equals or not all(names) or len(names) > MAX_DEPTH:
            raise error(f"--set {told(change)} is not of the form section.option=value")
        parsed = parse_yaml(value, f"--set {told(change)}", Path.cwd(), error)
        for key in reversed(names):
            parsed = {key: parsed}
        content = _merged(content, parsed, whole)
    return content


def parse_yaml(
    text: str | bytes, where: str, folder: Path | None = None, error: type[ConsistentIDError] = InputError
) -> Any:
    """YAML as plain values, with `Text` for texts; ``1e-4`` is a number, as YAML 1.2 has it.

    Args:
        text: in UTF-8.
        where: it stands, for messages.
        folder: that paths in it are relative to; the working folder by default.
        error: kind to raise.

    Raises:
        error: it is none, is nested deeper than `MAX_DEPTH`, repeats a key, or has aliases, by which a short text can
            stand for an endless one.
    """
    loader = None
    try:
        loader = _Loader(text.decode("utf-8-sig") if isinstance(text, bytes) else text)
        loader.folder = folder or Path.cwd()
        return loader.get_single_data()
    except _TooDeepError:
        raise too_deep(where, error) from None
    except (yaml.YAMLError, ValueError) as problem:  # dates and numbers that there are not are ValueErrors
        mark = getattr(problem, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        reason = getattr(problem, "problem", None) or first_line(problem)
        raise error(f"{where}{line}: cannot be read as YAML ({reason}); correct the file") from None
    finally:
        if loader:
            loader.dispose()


class _Reading(NamedTuple):
    """How `read_config` was called."""

    what: str
    find: Callable[[str, Path], Path]
    expand: Callable[[dict[str, Any]], dict[str, Any]]
    whole: Collection[str]
    error: type[ConsistentIDError]


def _read(path: Path, how: _Reading, before: tuple[Path, ...]) -> dict[str, Any]:
    error = how.error
    data = read_bytes(path, MAX_CONFIG_BYTES, what=how.what, error=error)
    folder = path.absolute().parent
    if path.suffix == ".json":
        content = _located(parse_json(data, str(path), error), folder)
    else:
        content = parse_yaml(data, str(path), folder, error)
    if not isinstance(content, dict):
        raise error(f"{path}: holds {told(content)}; a {how.what} is a mapping of options")
    name = content.pop("extends", None)
    content = how.expand(content)
    if name is None:
        return content
    if not isinstance(name, str) or not name:
        raise error(f"{path}: extends={told(name)} is not allowed; give the path of another {how.what}")
    chain = (*before, path.resolve())
    other = how.find(name, folder)
    if other.resolve() in chain or len(chain) > _LONGEST_CHAIN:
        raise error(f"{path}: extends {told(name)}, which extends it in turn or in too many steps; leave one out")
    return _merged(_read(other, how, chain), content, how.whole)


def _merged(base: dict[str, Any], change: dict[str, Any], whole: Collection[str]) -> dict[str, Any]:
    def one(name: str, value: Any) -> Any:
        before = base.get(name)
        if name in whole or not isinstance(before, dict) or not isinstance(value, dict):
            return value
        return _merged(before, value, [x.removeprefix(f"{name}.") for x in whole if x.startswith(f"{name}.")])

    return base | {name: one(name, value) for name, value in change.items()}


def _located(value: Any, folder: Path) -> Any:
    """Plain values of a JSON file as a YAML file would give them."""
    if isinstance(value, dict):
        return {_located(key, folder): _located(item, folder) for key, item in value.items()}
    if isinstance(value, list):
        return [_located(item, folder) for item in value]
    return Text(value, folder) if isinstance(value, str) else value


class _TooDeepError(Exception):
    pass


class _Loader(yaml.SafeLoader):
    """YAML without what makes a short file long: aliases, nesting without end, keys that are there twice."""

    folder: Path
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.constructor.ConstructorError(
                problem=f"the alias *{event.anchor} is not read here: write out what it stands for",
                problem_mark=event.start_mark,
            )
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise _TooDeepError
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            name = str(key.value)
            if name in seen:
                raise yaml.constructor.ConstructorError(problem=f"{name} is there twice", problem_mark=key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep)


def _text_of(loader: _Loader, node: yaml.ScalarNode) -> Text:
    return Text(str(loader.construct_scalar(node)), loader.folder)


_Loader.add_constructor("tag:yaml.org,2002:str", _text_of)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(?:[0-9]+\.?|[0-9]*\.[0-9]+)[eE][-+]?[0-9]+$"), list("-+.0123456789")
)

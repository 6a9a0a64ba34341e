"""A mapping written on the command line or in a file: JSON text, or the path of a JSON, TOML or YAML file."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from loss_conformance.subject.subject import TargetError
from loss_reference.names import nearest_name

__all__ = ["SUFFIXES", "read_mapping"]


def _yaml(text: str) -> Any:
    import yaml  # type: ignore[import-untyped]

    return yaml.safe_load(text)


_READERS: Final[dict[str, Callable[[str], Any]]] = {
    ".json": json.loads,
    ".toml": tomllib.loads,
    ".yaml": _yaml,
    ".yml": _yaml,
}
SUFFIXES: Final = tuple(_READERS)
"""File name endings that can be read."""


def read_mapping(option: str, given: str, root: Path) -> dict[str, Any]:
    """Return the mapping that ``given`` is or names; a relative path starts at ``root``.

    Args:
        option: the command line option, for the messages.
        given: JSON text when it starts with a brace, a path otherwise.
        root: where relative paths start.

    Raises:
        TargetError: no such file, an ending that is not known, text that does not parse, or no mapping in it.
    """
    if given.lstrip().startswith("{"):
        return _parsed(option, "the given text", json.loads, given)
    path = root / given
    if path.suffix.lower() not in _READERS:
        raise TargetError(
            f"{option} {given}: expected JSON text such as '{{\"beta\": 0.1}}', or a file that ends in {', '.join(SUFFIXES)}"
        )
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TargetError(f"{option} {given}: {_unreadable(path, error)}") from None
    return _parsed(option, given, _READERS[path.suffix.lower()], text)


def _unreadable(path: Path, error: Exception) -> str:
    if not isinstance(error, FileNotFoundError):
        return f"cannot be read: {error}"
    folder = path.parent
    if not folder.is_dir():
        return f"no such file; there is no folder {str(folder)!r}"
    near = nearest_name(path.name, [entry.name for entry in folder.iterdir() if entry.suffix.lower() in _READERS])
    return f"no such file in {str(folder)!r}{near}"


def _parsed(option: str, source: str, reader: Callable[[str], Any], text: str) -> dict[str, Any]:
    try:
        value = reader(text)
    except json.JSONDecodeError as error:
        raise TargetError(
            f"{option}: {source} is not JSON: {error.msg} at line {error.lineno}, column {error.colno}\n"
            f"    {_line(text, error.lineno)}\n    {' ' * (error.colno - 1)}^"
        ) from None
    except Exception as error:  # each reader has exceptions of its own, and all of them mean: does not parse
        raise TargetError(f"{option}: {source} cannot be parsed: {' '.join(str(error).split())}") from None
    if value is None:
        value = {}  # an empty YAML file
    if not isinstance(value, Mapping):
        raise TargetError(f'{option}: {source} holds {_kind(value)}; expected a mapping such as {{"beta": 0.1}}')
    for key in value:
        if not isinstance(key, str):
            raise TargetError(f"{option}: {source} has the key {key!r}; expected names as keys")
    return dict(value)


def _line(text: str, number: int) -> str:
    lines = text.splitlines()
    return lines[number - 1] if number <= len(lines) else ""


def _kind(value: Any) -> str:
    return {list: "a list", str: "a text", int: "a number", float: "a number", bool: "true or false"}.get(
        type(value), f"a {type(value).__name__}"
    )

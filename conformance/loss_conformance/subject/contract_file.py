"""A contract given beside the loss: an object, the name of one, or a file that spells its arguments out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from loss_conformance.subject.config_file import SUFFIXES, read_mapping
from loss_conformance.subject.locate import locate
from loss_conformance.subject.subject import TargetError
from loss_conformance.subject.user_frames import user_traceback
from loss_reference.contract import Contract, ContractError, Field, Option
from loss_reference.names import nearest_name

__all__ = ["load_contract"]

_OPTION = "--loss-contract"


def load_contract(given: str | Path | Mapping[str, Any] | Contract | None, root: Path) -> Contract | None:
    """Return the contract that ``given`` is, names, or spells out.

    Raises:
        TargetError: it cannot be found or read, is no contract, or says something that cannot be meant.
    """
    if given is None or isinstance(given, Contract):
        return given
    if isinstance(given, Mapping):
        return _from_mapping("the given mapping", given)
    text = str(given).strip()
    if text.startswith("{") or text.lower().endswith(SUFFIXES):
        return _from_mapping(text if not text.startswith("{") else "the given text", read_mapping(_OPTION, text, root))
    found = locate(text, root)
    if callable(found) and not isinstance(found, Contract):
        found = _called(text, found)
    if not isinstance(found, Contract):
        raise TargetError(
            f"{_OPTION} {text} is a {type(found).__name__}; expected a Contract or a function that returns one"
        )
    return found


def _called(text: str, factory: Callable[[], Any]) -> Any:
    try:
        return factory()
    except Exception as error:
        message = f"{_OPTION} {text}: calling it raised {type(error).__name__}: {error}"
        raise TargetError(message, user_traceback(error)) from None


def _from_mapping(source: str, mapping: Mapping[str, Any]) -> Contract:
    arguments = dict(mapping)
    _refuse_unknown(source, "", arguments, [fact.name for fact in fields(Contract)])
    try:
        for name, kind in (("fields", Field), ("options", Option)):
            if name in arguments:
                arguments[name] = {key: _part(source, name, key, kind, part) for key, part in arguments[name].items()}
        return Contract(**arguments)
    except (ContractError, AttributeError, TypeError) as error:
        raise TargetError(f"{_OPTION}: {source}: {error}") from None


def _part(source: str, group: str, key: str, kind: type[Field | Option], part: Any) -> Any:
    if not isinstance(part, Mapping):
        raise TargetError(f"{_OPTION}: {source}: {group}.{key} is {part!r}; expected a mapping")
    arguments = dict(part)
    _refuse_unknown(source, f"{group}.{key}: ", arguments, [fact.name for fact in fields(kind)])
    if "values" in arguments:
        arguments["values"] = tuple(arguments["values"])
    if "reduces_to" in arguments:
        # A file has only texts as keys, so each is matched with the value that is written like it.
        written = {str(value): value for value in arguments.get("values", ())}
        arguments["reduces_to"] = {written.get(k, _number(k)): name for k, name in arguments["reduces_to"].items()}
    return kind(**arguments)


def _number(text: Any) -> Any:
    try:
        return float(text)
    except (TypeError, ValueError):
        return text


def _refuse_unknown(source: str, where: str, arguments: Mapping[str, Any], known: list[str]) -> None:
    for key in arguments:
        if key not in known:
            hint = nearest_name(str(key), known)
            raise TargetError(f"{_OPTION}: {source}: {where}unknown {key!r}; expected {', '.join(known)}{hint}")

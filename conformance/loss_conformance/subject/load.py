"""From what the user names to a subject: located, constructed, its protocol chosen, its settings known."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loss_conformance.subject.choose import choose_protocol
from loss_conformance.subject.config_file import read_mapping
from loss_conformance.subject.construct import construct
from loss_conformance.subject.contract_file import load_contract
from loss_conformance.subject.locate import locate
from loss_conformance.subject.subject import Subject, TargetError
from loss_reference.contract import Contract

__all__ = ["load_subject"]


def load_subject(
    target: str | object,
    *,
    config: Mapping[str, Any] | str | Path | None = None,
    contract: Contract | Mapping[str, Any] | str | Path | None = None,
    root: Path | None = None,
) -> Subject:
    """Return the loss that ``target`` names, ready to be called.

    Args:
        target: ``"package.module.Name"``, ``"module:Name"``, ``"path/file.py:Name"``, or an object: a class, an
            instance, a function, or a factory without required parameters.
        config: constructor config: a mapping, JSON text, or the path of a JSON, TOML or YAML file.
        contract: a contract, the name of one, or a file that holds its arguments.
        root: where names are looked up and relative paths start; the current folder when ``None``.

    Raises:
        TargetError: it cannot be found, imported or constructed, or is no loss.
    """
    root = (root or Path.cwd()).resolve()
    settings = _config(config, root)
    promised = load_contract(contract, root)
    found = locate(target, root) if isinstance(target, str) else target
    name = target if isinstance(target, str) else _name_of(target)
    made = construct(name, found, settings, functools.partial(_call_once, promised))
    return Subject(
        target=name,
        loss=made.loss,
        protocol=choose_protocol(made.loss),
        contract=promised,
        settings=made.settings,
        rebuild=made.rebuild,
        config=settings,
        assumed=made.assumed,
    )


def _config(config: Mapping[str, Any] | str | Path | None, root: Path) -> dict[str, Any]:
    if config is None:
        return {}
    if isinstance(config, Mapping):
        return dict(config)
    if isinstance(config, str | Path):
        return read_mapping("--loss-config", str(config), root)
    raise TargetError(f"config is {type(config).__name__} {config!r}; expected a mapping such as {{'beta': 0.1}}")


def _name_of(target: object) -> str:
    named = target.func if isinstance(target, functools.partial) else target
    if not hasattr(named, "__qualname__"):
        named = type(named)
    return f"{named.__module__}.{named.__qualname__}"


def _call_once(promised: Contract | None, loss: Any) -> None:
    contract = promised or getattr(loss, "contract", None) or Contract()
    with contextlib.suppress(Exception):
        choose_protocol(loss).routes(loss, contract)

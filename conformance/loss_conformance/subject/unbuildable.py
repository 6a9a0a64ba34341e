"""What is said when a loss cannot be constructed: what is missing, and the line to write."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from loss_conformance.subject.subject import TargetError
from loss_conformance.subject.user_frames import user_traceback
from loss_reference.names import nearest_name
from loss_reference.settings import ConfigError

__all__ = ["needs_arguments", "raised", "takes_no"]


def needs_arguments(
    target: str, maker: Callable[..., Any], missing: list[str], config: Mapping[str, Any], by_config: bool
) -> TargetError:
    """Say which constructor arguments are missing, with a config line and a factory to copy."""
    call = getattr(maker, "__name__", "make")
    values = ", ".join(f"{name}=..." for name in [*config, *missing]) if not by_config else ""
    arguments = values or ", ".join([repr(dict(config)), *(f"{name}=..." for name in missing)])
    lines = [f"{target} cannot be constructed without {_listed(missing)}; either give the config"]
    if not by_config:
        entries = [f"{json.dumps(name)}: {_json(value)}" for name, value in config.items()]
        entries += [f"{json.dumps(name)}: ..." for name in missing]
        lines.append(f"    --loss-config '{{{', '.join(entries)}}}'")
        lines.append("or name a factory instead")
    else:
        lines = [f"{target} cannot be constructed without {_listed(missing)}; name a factory instead"]
    lines += ["    def make_loss():", f"        return {call}({arguments})"]
    return TargetError("\n".join(lines))


def takes_no(target: str, unknown: str, names: list[str]) -> TargetError:
    """Say that the config names an argument that does not exist."""
    expected = f"expected {', '.join(names)}" if names else "it takes no arguments"
    return TargetError(f"{target} takes no argument {unknown!r}; {expected}{nearest_name(unknown, names)}")


def raised(target: str, maker: Any, error: BaseException, config: Mapping[str, Any] | None) -> TargetError:
    """Say that the constructor, or the factory, raised.

    Args:
        target: as the user wrote it.
        maker: the class or the factory.
        error: what it raised.
        config: the mapping it was given, when it takes one.
    """
    if isinstance(error, ConfigError):
        return TargetError(str(error))
    doing = "constructing it" if isinstance(maker, type) else "calling it"
    message = f"{target}: {doing} raised {type(error).__name__}: {error}"
    key = error.args[0] if isinstance(error, KeyError) and error.args else None
    if config is not None and isinstance(key, str) and key not in config:
        entries = [f"{json.dumps(name)}: {_json(value)}" for name, value in config.items()]
        line = ", ".join([*entries, f"{json.dumps(key)}: ..."])
        message += f"\nthe config has no {key!r}{nearest_name(key, config)}; give it:\n    --loss-config '{{{line}}}'"
    return TargetError(message, user_traceback(error))


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _json(value: Any) -> str:
    try:
        return json.dumps(value)
    except TypeError:
        return "..."

"""A reference loss by its registered name, as a subject."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from loss_conformance.subject.interface import InterfaceProtocol
from loss_conformance.subject.setting_names import settings_in_force, shared_settings
from loss_conformance.subject.subject import Subject, TargetError
from loss_reference.contract import Contract
from loss_reference.names import nearest_name
from loss_reference.registry import registry
from loss_reference.settings import ConfigError, settings_of, without_unread

__all__ = ["baseline_subject", "reference_subject", "require_registered"]


def reference_subject(name: str, settings: Mapping[str, Any]) -> Subject:
    """Return the reference loss ``name``, with the settings of the loss under test that it shares by name.

    Raises:
        ValueError: no such reference loss. Names the nearest.
        TargetError: it refuses those settings, or needs one that is not among them.
    """
    import loss_reference  # noqa: F401 - its import registers every loss

    cls = registry.get(name)
    # What the loss under test is set to may be nothing that this one reads beside the rest.
    shared = without_unread(cls, shared_settings(settings, settings_of(cls)))
    try:
        cls(shared)
    except ConfigError as error:
        raise TargetError(f"{name} cannot be set up like the loss compared with it, with {shared}: {error}") from None
    return Subject(f"loss_reference.{cls.__name__}", cls(shared), InterfaceProtocol(), settings=shared, config=shared)


def require_registered(contract: Contract, target: str) -> None:
    """Refuse a contract that compares with a loss nobody registered.

    Raises:
        TargetError: a baseline or a special case no reference loss is called by. Names the nearest.
    """
    import loss_reference  # noqa: F401 - its import registers every loss

    named = [("baseline", contract.baseline)]
    named += [
        (f"options[{key!r}].reduces_to", name) for key, o in contract.options.items() for name in o.reduces_to.values()
    ]
    for where, name in named:
        if name is not None and name not in registry.names():
            known = ", ".join(registry.names())
            raise TargetError(
                f"the contract of {target} names {where}={name!r}, and no reference loss has this name"
                f"{nearest_name(name, registry.names())}\n  there are: {known}"
            )


def baseline_subject(baseline: Any, subject: Subject) -> Subject | None:
    """Return what to compare ``subject`` with: ``None``, a subject, a registered name, or anything that can be loaded.

    Raises:
        TargetError: it is neither a registered name nor a target.
    """
    from loss_conformance.subject.load import load_subject

    if baseline is None or isinstance(baseline, Subject):
        return baseline
    if isinstance(baseline, str) and baseline in registry.names():
        return reference_subject(baseline, settings_in_force(subject))
    return load_subject(baseline)

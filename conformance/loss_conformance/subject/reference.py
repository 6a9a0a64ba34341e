"""A reference loss by its registered name, as a subject."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from loss_conformance.subject.interface import InterfaceProtocol
from loss_conformance.subject.subject import Subject
from loss_reference.registry import registry
from loss_reference.settings import settings_of

__all__ = ["baseline_subject", "reference_subject"]


def reference_subject(name: str, settings: Mapping[str, Any]) -> Subject:
    """Return the reference loss ``name``, with the settings of the loss under test that it shares by name.

    Raises:
        ValueError: no such reference loss. Names the nearest.
    """
    import loss_reference  # noqa: F401 - its import registers every loss

    cls = registry.get(name)
    shared = {key: value for key, value in settings.items() if key in settings_of(cls)}
    return Subject(f"loss_reference.{cls.__name__}", cls(shared), InterfaceProtocol(), settings=shared, config=shared)


def baseline_subject(baseline: Any, subject: Subject) -> Subject | None:
    """Return what to compare ``subject`` with: ``None``, a subject, a registered name, or anything that can be loaded.

    Raises:
        TargetError: it is neither a registered name nor a target.
    """
    from loss_conformance.subject.load import load_subject

    if baseline is None or isinstance(baseline, Subject):
        return baseline
    if isinstance(baseline, str) and baseline in registry.names():
        return reference_subject(baseline, subject.settings)
    return load_subject(baseline)

"""From a target as it was typed to the engine that checks it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from loss_conformance.apart.apart import answering
from loss_conformance.attempt import Answers
from loss_conformance.engine import Engine
from loss_conformance.subject.load import load_subject
from loss_conformance.subject.locate import locate
from loss_conformance.subject.reference import reference_subject
from loss_conformance.subject.subject import Subject, TargetError

if TYPE_CHECKING:
    from loss_conformance.run_options import RunOptions

__all__ = ["open_answers", "open_engine"]


def open_answers(target: str, options: RunOptions) -> Answers:
    """Return what answers for ``target``, in a process of its own where that can be.

    Raises:
        TargetError: it, or something the options name beside it, cannot be loaded.
    """
    locate(target, Path(options.root).resolve())  # imported here once, rather than in every child
    return answering(partial(open_engine, target, options), target)


def open_engine(target: str, options: RunOptions) -> Engine:
    """Load ``target`` and everything the options name beside it.

    Raises:
        TargetError: one of them cannot be loaded.
        CannotFeed: no inputs were found that the loss accepts.
    """
    subject = load_subject(target, config=options.config, contract=options.contract, root=Path(options.root))
    return Engine(
        subject,
        profile=options.profile,
        seed=options.seed,
        device=options.device,
        baseline=_baseline(options, subject),
        example=_example(options),
    )


def _baseline(options: RunOptions, subject: Subject) -> Subject | None:
    from loss_reference import registry
    from loss_reference.names import nearest_name

    if options.baseline is None:
        return None
    if options.baseline in registry.names():
        return reference_subject(options.baseline, subject.settings)
    if options.baseline.isidentifier():
        hint = nearest_name(options.baseline, registry.names())
        known = ", ".join(registry.names())
        raise TargetError(
            f"--loss-baseline {options.baseline}: no reference loss has this name{hint}\n  there are: {known}"
        )
    return load_subject(options.baseline, root=Path(options.root))


def _example(options: RunOptions) -> Callable[[], Any] | None:
    if options.example is None:
        return None
    found = locate(options.example, Path(options.root).resolve())
    if not callable(found):
        raise TargetError(f"--loss-example {options.example}: expected a function that returns (batch, model_outputs)")
    return cast("Callable[[], Any]", found)

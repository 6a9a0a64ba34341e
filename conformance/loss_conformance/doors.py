"""The engine's doors outside pytest: two functions, and a decorator for people's own test files."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from loss_conformance.apart.apart import answering
from loss_conformance.attempt import Answers
from loss_conformance.checks.registry import every_check, select_checks
from loss_conformance.engine import Engine
from loss_conformance.report.failure_block import failure_block
from loss_conformance.subject.handing_through import HandingThrough
from loss_conformance.subject.interface import InterfaceProtocol
from loss_conformance.subject.load import load_subject
from loss_conformance.subject.locate import locate
from loss_conformance.subject.protocol import CannotFeed
from loss_conformance.subject.reference import baseline_subject
from loss_conformance.verdict import Report, Status, Verdict

if TYPE_CHECKING:
    from loss_reference import Contract

__all__ = ["NonConformant", "check_loss", "conformance_checks", "verify"]

F = TypeVar("F", bound=Callable[..., Any])


class NonConformant(AssertionError):
    """A loss broke at least one law.

    Attributes:
        report: every verdict.
    """

    def __init__(self, report: Report) -> None:
        super().__init__("\n\n" + _blocks(report))
        self.report = report


def check_loss(
    loss: Any,
    *,
    checks: tuple[str, ...] = (),
    config: Mapping[str, Any] | str | None = None,
    contract: Contract | str | None = None,
    baseline: Any = None,
    profile: str = "standard",
    seed: int = 0,
    device: str = "auto",
) -> Report:
    """Check a loss and return every verdict; nothing is raised for a broken law.

    Args:
        loss: a dotted path, a class, an instance, a function or a factory.
        checks: names of checks or groups; none means all of the profile.
        config: constructor settings, as a mapping, JSON text or a file.
        contract: what the loss promises, when it does not say so itself.
        baseline: another loss, or the registered name of a reference loss, to compare with.
        profile: ``"quick"``, ``"standard"`` or ``"thorough"``.
        seed: the seed cases are drawn from.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, ...

    Raises:
        TargetError: the loss cannot be loaded or constructed.
        CannotFeed: no inputs were found that it accepts.
        ValueError: unknown check, profile or baseline.
    """

    def make() -> Engine:
        subject = load_subject(loss, config=config, contract=contract)
        reference = baseline_subject(baseline, subject)
        return Engine(subject, profile=profile, seed=seed, device=device, baseline=reference)

    with contextlib.closing(_answering(make, loss)) as engine:
        return _report(engine, checks)


def verify(
    loss: Any,
    batch: Mapping[str, Any],
    model_outputs: Mapping[str, Any],
    *,
    checks: tuple[str, ...] = (),
    contract: Contract | str | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> Report:
    """Run every law that only transforms a batch on this one, and raise before the first training step.

    Neither the tensors nor their gradients are changed. The batch is used as it is: nothing is drawn, nothing shrunk.

    Args:
        loss: a loss of the ``compute_loss(batch, model_outputs)`` interface, or a path to one.
        batch: the constant inputs, with ``token_mask`` and ``sample_mask`` where the loss reads them.
        model_outputs: what is trained.
        checks: names of checks or groups; none means all.
        contract: what the loss promises, when it does not say so itself.

    Returns:
        The report, when every law holds.

    Raises:
        NonConformant: a law is broken; the message holds one block for each.
        CannotFeed: the loss cannot be called with this batch, or has another calling convention.
    """
    subject = load_subject(loss, contract=contract)
    if not isinstance(subject.protocol, InterfaceProtocol):
        raise CannotFeed(f"verify takes losses with compute_loss(batch, model_outputs); {subject.target} has none")
    subject = replace(subject, protocol=HandingThrough(batch, model_outputs))
    engine = Engine(subject, seed=seed, device=device, example=lambda: (batch, model_outputs))
    report = _report(engine, checks)
    if not report.conformant:
        raise NonConformant(report)
    return report


class BoundCheck:
    """One check of one loss, to be called inside a test; raises ``NonConformant`` when the law is broken."""

    def __init__(self, name: str, suite: _Suite) -> None:
        self.name = name
        self._suite = suite

    def __call__(self) -> Verdict:
        verdict = self._suite.engine.run(self.name)
        if verdict.status in (Status.FAILED, Status.BLOCKED):
            raise NonConformant(Report(self._suite.engine.target, (verdict,), seed=self._suite.engine.seed))
        return verdict

    def __repr__(self) -> str:
        return self.name


class _Suite:
    """An engine made when its first check runs, so that collecting tests constructs no loss."""

    def __init__(self, make: Callable[[], Engine], loss: Any) -> None:
        self._make, self._loss = make, loss

    @cached_property
    def engine(self) -> Answers:
        return _answering(self._make, self._loss)


def conformance_checks(
    loss: Any, *, checks: tuple[str, ...] = (), profile: str = "standard", seed: int = 0, **how: Any
) -> Callable[[F], F]:
    """Return a decorator that runs a test once for each check, handing it over as the argument ``check``.

    ::

        @conformance_checks(MyLoss, config={"beta": 0.1})
        def test_my_loss(check):
            check()

    Args:
        loss, checks, profile, seed: as for ``check_loss``.
        how: ``config``, ``contract``, ``baseline`` and ``device``, as for ``check_loss``.
    """
    import pytest

    def make() -> Engine:
        subject = load_subject(loss, config=how.get("config"), contract=how.get("contract"))
        baseline = baseline_subject(how.get("baseline"), subject)
        return Engine(subject, profile=profile, seed=seed, device=how.get("device", "auto"), baseline=baseline)

    unknown = set(how) - {"config", "contract", "baseline", "device"}
    if unknown:
        raise TypeError(f"conformance_checks() got an unexpected keyword argument {min(unknown)!r}")
    suite = _Suite(make, loss)
    bound = [BoundCheck(check.name, suite) for check in select_checks(checks) if check.belongs_to(profile)]
    return pytest.mark.parametrize("check", bound, ids=repr)


def _answering(make: Callable[[], Engine], loss: Any) -> Answers:
    if isinstance(loss, str):
        locate(loss, Path.cwd())  # imported here once, rather than in every child
    return answering(make, loss if isinstance(loss, str) else getattr(loss, "__qualname__", type(loss).__qualname__))


def _report(engine: Answers, checks: tuple[str, ...]) -> Report:
    selected = {check.name for check in select_checks(checks)}
    verdicts = tuple(engine.run(check.name) for check in engine.checks() if check.name in selected)
    return Report(engine.target, verdicts, tuple(engine.facts()), tuple(engine.warnings()), engine.seed)


def _blocks(report: Report) -> str:
    known = {check.name: check for check in every_check()}
    blocks = [
        failure_block(report.target, known[v.check], v.failure) for v in report.having(Status.FAILED) if v.failure
    ]
    blocked = [f"{report.target}::{v.check} {v.reason}" for v in report.having(Status.BLOCKED)]
    return "\n\n".join(blocks + blocked) or f"{report.target}: no law applies to this loss"

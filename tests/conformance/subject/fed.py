"""What the tests of the protocols share: a loss, its slots in short, and its value on a plan."""

from typing import Any

import torch
from torch import Tensor

from loss_conformance import check_loss
from loss_conformance.cases.build import build
from loss_conformance.cases.plan import Plan
from loss_conformance.cases.pool import draw_pool
from loss_conformance.cases.slot import Schema
from loss_conformance.subject.load import load_subject
from loss_conformance.subject.result import result_of
from loss_conformance.subject.subject import Subject
from loss_conformance.verdict import Status
from loss_reference import Contract

POOL = draw_pool(2, 5)
SITUATIONS = (
    "typical",
    "on_policy",
    "off_policy",
    "saturated",
    "certain",
    "ties",
    "full",
    "one_token",
    "one_row",
    "holes",
)


def route(loss: object, contract: Contract | None = None, config: Any = None) -> tuple[Subject, Schema]:
    subject = load_subject(loss, config=config)
    (schema,) = subject.protocol.routes(subject.loss, contract or Contract())
    return subject, schema


def shapes(schema: Schema) -> dict[str, str]:
    """Return slot key to kind and shape, with marks: ``*`` trainable, ``>n`` a shift, ``?`` optional, ``!`` whole numbers."""
    return {
        slot.key: f"{slot.kind} {' '.join(slot.shape)}".strip()
        + "*" * slot.trainable
        + f">{slot.shift}" * bool(slot.shift)
        + "?" * slot.optional
        + "!" * slot.integer
        for slot in schema.slots
    }


def value(subject: Subject, schema: Schema, plan: Plan) -> Tensor:
    case = build(schema, plan).cast(torch.float32)
    for slot in case.slots():
        if slot.trainable:
            case.tensor(slot).requires_grad_()
    loss, _ = result_of(subject.protocol.call(subject.loss, case))
    assert isinstance(loss, Tensor)
    return loss


def assert_not_accused(loss: object, checks: tuple[str, ...]) -> None:
    """Demand that a loss is fed something it is finite on, and that none of these checks fails it (all when empty)."""
    report = check_loss(loss, profile="quick", seed=0, device="cpu", checks=checks)
    statuses = {verdict.check: verdict.status for verdict in report.verdicts}
    assert statuses["scalar_output"] is Status.PASSED
    assert statuses["finite_value"] is Status.PASSED
    assert [name for name, status in statuses.items() if status is Status.FAILED] == []


def assert_fed(subject: Subject, schema: Schema, situations: tuple[str, ...] = SITUATIONS, terms: bool = False) -> None:
    """Demand a finite attached value on two plans of every situation."""
    for situation in situations:
        for plan in POOL[situation]:
            loss = value(subject, schema, plan)
            assert terms or loss.dim() == 0, situation
            assert loss.requires_grad, situation
            assert bool(torch.isfinite(loss).all()), situation

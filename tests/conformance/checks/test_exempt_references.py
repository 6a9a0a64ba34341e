"""An exemption of a reference loss is a law that really fails there: without it the check says so."""

import pytest

from loss_conformance import check_loss
from loss_conformance.verdict import Status
from loss_reference import Contract
from tests.conformance.checks.every_reference import CONFIGS, LOSSES

EXEMPT = [(loss, name) for loss in LOSSES for name in loss.contract.exempt]


@pytest.mark.parametrize(("loss", "name"), EXEMPT, ids=[f"{loss.__name__}-{name}" for loss, name in EXEMPT])
def test_the_law_fails_without_the_exemption(loss: type, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = {fact: getattr(loss.contract, fact) for fact in vars(loss.contract) if loss.contract.declares(fact)}
    monkeypatch.setattr(loss, "contract", Contract(**{**facts, "exempt": {}}))
    report = check_loss(loss, checks=(name,), config=CONFIGS.get(loss.__name__), profile="standard")
    verdict = next(v for v in report.verdicts if v.check == name)
    assert verdict.status in (Status.FAILED, Status.ADVICE)


def test_there_are_such_losses() -> None:
    assert {loss.__name__ for loss, _ in EXEMPT} >= {"ZLoss", "CosineDistillLoss"}

"""An exemption of a reference loss is a law that really fails there: without it the check says so."""

from typing import Any

import pytest

from loss_conformance import check_loss
from loss_conformance.verdict import Status
from loss_reference.token_level import refine
from tests.conformance.checks.every_reference import CONFIGS, LOSSES

EXEMPT = [(loss, name) for loss in LOSSES for name in loss(CONFIGS.get(loss.__name__)).contract.exempt]


@pytest.mark.parametrize(("loss", "name"), EXEMPT, ids=[f"{loss.__name__}-{name}" for loss, name in EXEMPT])
def test_the_law_fails_without_the_exemption(loss: type, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    construct = loss.__init__  # type: ignore[misc]

    def without_exemptions(self: Any, config: Any = None) -> None:
        construct(self, config)
        self.contract = refine(self.contract, exempt={})

    monkeypatch.setattr(loss, "contract", refine(loss.contract, exempt={}))
    monkeypatch.setattr(loss, "__init__", without_exemptions)
    report = check_loss(loss, checks=(name,), config=CONFIGS.get(loss.__name__), profile="standard")
    verdict = next(v for v in report.verdicts if v.check == name)
    assert verdict.status in (Status.FAILED, Status.ADVICE)


def test_there_are_such_losses() -> None:
    assert {loss.__name__ for loss, _ in EXEMPT} >= {"ZLoss", "CosineDistillLoss"}

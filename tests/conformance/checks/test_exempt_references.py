"""An exemption of a reference loss is a law that really fails there: without it the check says so."""

from typing import Any

import pytest

from loss_conformance import check_loss
from loss_conformance.checks.registry import every_check
from loss_conformance.verdict import Status
from loss_reference import Contract, registry
from loss_reference.token_level import refine
from tests.conformance.checks.every_reference import CONFIGS, LOSSES

# Settings with which a loss is exempt from more than it is without them.
ON_PURPOSE: list[tuple[str, dict[str, Any]]] = [
    ("adaptive", {"mode": "literal"}),
    ("cpo", {"label_smoothing": 0.5}),
    ("flooding", {"level": 2.0}),
    ("label_smoothed_ce", {"softcap": 30.0}),
    ("luspo", {"reference_policy_kl_penalty": 1.0, "padding": "counted"}),
    ("minillm", {"padding": "counted"}),
    ("orpo", {"nll_span": "full"}),
]
SET_UP = [(loss, CONFIGS.get(loss.__name__)) for loss in LOSSES]
SET_UP += [(registry.get(name), config) for name, config in ON_PURPOSE]
EXEMPT = [(loss, config, law) for loss, config in SET_UP for law in loss(config).contract.exempt]


def named(loss: type, config: dict[str, Any] | None, law: str) -> str:
    settings = {} if config is CONFIGS.get(loss.__name__) else config or {}
    return "-".join([loss.__name__, *map(str, settings.values()), law])


@pytest.mark.parametrize(("loss", "config", "law"), EXEMPT, ids=[named(*exempt) for exempt in EXEMPT])
def test_the_law_fails_without_the_exemption(
    loss: type, config: dict[str, Any] | None, law: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    construct = loss.__init__  # type: ignore[misc]

    def lifted(contract: Contract) -> Contract:
        return refine(contract, exempt={name: reason for name, reason in contract.exempt.items() if name != law})

    def without_it(self: Any, config: Any = None) -> None:
        construct(self, config)
        self.contract = lifted(self.contract)

    monkeypatch.setattr(loss, "contract", lifted(loss.contract))
    monkeypatch.setattr(loss, "__init__", without_it)
    cheapest = next(check.cost.value for check in every_check() if check.name == law)
    report = check_loss(loss, checks=(law,), config=config, profile=cheapest)
    verdict = next(v for v in report.verdicts if v.check == law)
    assert verdict.status in (Status.FAILED, Status.ADVICE)


def test_there_are_such_losses() -> None:
    assert {loss.__name__ for loss, _, _ in EXEMPT} >= {"ZLoss", "CosineDistillLoss", "LUSPOLoss", "ORPOLoss"}

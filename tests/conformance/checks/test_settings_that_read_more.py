"""A coefficient of 0 keeps a loss from reading a field; trying other coefficients is then not possible, and no failure."""

from typing import Any

import pytest

from loss_conformance import check_loss
from loss_conformance.verdict import Status
from loss_reference import GRPOLoss, LossFunction, NLLLoss, registry
from loss_reference.contract import Option
from loss_reference.interface import Batch, Outputs
from loss_reference.settings import Setting
from loss_reference.token_level import refine

CHECKS = ("declared_direction", "option_effect")


class Penalised(NLLLoss):
    """NLL with an optional penalty, which reads the field that ``wanted`` names."""

    contract = refine(
        NLLLoss.contract,
        direction={"penalty": +1},
        options={**NLLLoss.contract.options, "penalty": Option(values=(0.0, 1.0))},
    )
    penalty = Setting(0.0, least=0.0)
    wanted = "returns"

    def compute_loss(self, batch: Batch, model_outputs: Outputs) -> Any:
        value = super().compute_loss(batch, model_outputs)
        return value if self.penalty == 0 else value * (1 + self.penalty * batch[self.wanted].square().mean())


class Misspelt(Penalised):
    wanted = "retruns"


def failed(loss: type[LossFunction], config: dict[str, Any], checks: tuple[str, ...] = CHECKS) -> list[str]:
    report = check_loss(loss, config=config, profile="quick", device="cpu", checks=checks)
    return [verdict.check for verdict in report.having(Status.FAILED)]


@pytest.mark.parametrize(
    ("loss", "config", "checks"),
    [
        (GRPOLoss, {"reference_policy_kl_penalty": 0.0}, CHECKS[:1]),
        (registry.get("actor_critic_total"), {"value_coefficient": 0.0}, CHECKS),
        (Penalised, {"penalty": 0.0}, CHECKS),
    ],
)
def test_a_field_that_is_not_read_is_not_asked_for(
    loss: type[LossFunction], config: dict[str, Any], checks: tuple[str, ...]
) -> None:
    assert failed(loss, config, checks) == []


def test_a_name_that_no_field_has_is_a_mistake() -> None:
    assert failed(Misspelt, {"penalty": 0.0}) == ["declared_direction", "option_effect"]

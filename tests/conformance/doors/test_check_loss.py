"""check_loss: every verdict about a loss, however it is named, and nothing raised for a broken law."""

from pathlib import Path

import pytest
import torch

from loss_conformance import check_loss
from loss_conformance.subject.protocol import CannotFeed
from loss_conformance.subject.subject import TargetError
from loss_conformance.verdict import Report, Status
from loss_reference import Contract, DPOLoss, LossFunction
from tests.conformance.doors.own_batches import MaskedMean, MeanOfPadding

MASKING = ("mask_value", "finite_value")

FILE = """
from tests.conformance.doors.own_batches import MeanOfPadding


class Mine(MeanOfPadding):
    pass
"""


def squared_error(input, target):
    return ((input - target) ** 2).mean()


def failed(report: Report) -> list[str]:
    return [verdict.check for verdict in report.having(Status.FAILED)]


def check(loss: object, **how: object) -> Report:
    return check_loss(loss, **{"checks": MASKING, "profile": "quick", "device": "cpu", **how})


@pytest.mark.parametrize(
    ("loss", "target"),
    [
        ("loss_reference.DPOLoss", "loss_reference.DPOLoss"),
        ("loss_reference:DPOLoss", "loss_reference:DPOLoss"),
        (DPOLoss, "loss_reference.preference.dpo.DPOLoss"),
        (DPOLoss({"beta": 0.5}), "loss_reference.preference.dpo.DPOLoss"),
        (squared_error, f"{__name__}.squared_error"),
        (torch.nn.MSELoss(), "torch.nn.modules.loss.MSELoss"),
        ("torch.nn.functional.mse_loss", "torch.nn.functional.mse_loss"),
    ],
    ids=["dotted", "colon", "class", "instance", "function", "module", "torch function"],
)
def test_any_way_of_naming_a_loss(loss: object, target: str) -> None:
    report = check(loss)
    assert report.target == target
    assert report.conformant
    assert [verdict.check for verdict in report.verdicts] == ["finite_value", "mask_value"]


def test_a_path_to_a_file(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(FILE)
    report = check(f"{tmp_path / 'mine.py'}:Mine")
    assert failed(report) == ["mask_value"]


def test_a_broken_law_is_reported_and_not_raised() -> None:
    report = check(MeanOfPadding)
    assert failed(report) == ["mask_value"]
    assert not report.conformant


def test_groups_and_checks_can_be_named() -> None:
    report = check(MaskedMean, checks=("masking", "quiet"))
    assert {verdict.group for verdict in report.verdicts} == {"masking", "interface"}


def test_the_profile_decides_how_many_cases_are_tried() -> None:
    quick = check(MaskedMean, checks=("finite_value",)).verdicts[0].cases
    standard = check(MaskedMean, checks=("finite_value",), profile="standard").verdicts[0].cases
    assert standard == 3 * quick > 0


def test_facts_and_seed_are_part_of_the_report() -> None:
    report = check(MaskedMean, seed=5)
    assert report.seed == 5
    assert "family = 'supervised' (inferred: it reads next_token_logprobs)" in report.facts


class Configured(MaskedMean):
    def __init__(self, config=None):
        super().__init__(config)
        if self.config.get("beta") != 0.25:
            raise ValueError(f"beta is {self.config.get('beta')}")


def test_a_config_is_given_to_the_constructor() -> None:
    assert check(Configured, config={"beta": 0.25}).conformant
    assert check(Configured, config='{"beta": 0.25}').conformant
    with pytest.raises(TargetError, match="beta is None"):
        check(Configured)


def test_a_contract_is_taken_over() -> None:
    report = check(MeanOfPadding, contract=Contract(exempt={"mask_value": "on purpose"}))
    assert [verdict.check for verdict in report.having(Status.EXPECTED_FAILURE)] == ["mask_value"]


@pytest.mark.parametrize("baseline", ["nll", "loss_reference.NLLLoss", MaskedMean])
def test_a_baseline_is_compared_with(baseline: object) -> None:
    same = check(MaskedMean, checks=("baseline",), baseline=baseline)
    other = check(MeanOfPadding, checks=("baseline",), baseline=baseline)
    assert {"baseline_value", "baseline_gradient"} <= {v.check for v in same.having(Status.PASSED)}
    assert "baseline_value" in failed(other)


def test_an_unknown_check_is_an_error_with_the_nearest_name() -> None:
    with pytest.raises(ValueError, match=r"^no check or group is named 'maskin'; did you mean 'masking'\?$"):
        check(MaskedMean, checks=("maskin",))


def test_an_unknown_profile_is_an_error() -> None:
    with pytest.raises(
        ValueError, match=r"^no profile 'quik'; expected one of quick, standard, thorough; did you mean"
    ):
        check(MaskedMean, profile="quik")


def test_an_unknown_loss_is_an_error() -> None:
    with pytest.raises(TargetError, match="DPOLos"):
        check("loss_reference.DPOLos")


def test_a_loss_that_cannot_be_fed_is_an_error() -> None:
    class Asks(LossFunction):
        def compute_loss(self, batch, model_outputs):
            return batch["what"].mean()

    with pytest.raises(CannotFeed, match=r"^it reads batch\['what'\], which is not in the vocabulary"):
        check(Asks)

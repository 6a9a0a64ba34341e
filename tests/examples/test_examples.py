"""Each example fails in the way its first lines say, or not at all."""

import runpy
from functools import cache
from pathlib import Path

import pytest

from loss_conformance import check_loss
from loss_conformance.verdict import Failure, Report, Status
from loss_reference import registry

EXAMPLES = Path(__file__).parents[2] / "examples"

WRONG = {
    "contrastive_loss.py:ContrastiveLoss": ["finite_value"],
    "adaptive_loss.py:AdaptiveLoss": ["empty_batch", "finite_difference", "microbatch", "option_effect"],
    "dynamic_weight_loss.py:DynamicWeightLoss": ["finite_value", "empty_batch"],
    "masked_mean_bug.py:MaskedMeanLoss": ["mask_value"],
}
RIGHT = [
    "custom_dpo_loss.py:CustomDPOLoss",
    "multi_objective_loss.py:MultiObjectiveLoss",
    "composed_loss.py:ComposedLoss",
    "correct_masked_nll.py:MaskedNLLLoss",
    "registration.py:ScaledNLLLoss",
    "registration.py:CustomLoss",
]


@pytest.fixture(autouse=True)
def registry_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "registry", dict(registry.registry))


@cache
def run(target: str, *checks: str, seed: int = 0, profile: str = "standard") -> Report:
    return check_loss(f"{EXAMPLES}/{target}", checks=checks, profile=profile, seed=seed, device="cpu")


def names(report: Report, status: Status) -> list[str]:
    return [verdict.check for verdict in report.having(status)]


def failure(target: str, check: str) -> Failure:
    (verdict,) = run(target, check).having(Status.FAILED)
    assert verdict.failure is not None
    return verdict.failure


def test_every_example_is_here() -> None:
    tested = {target.partition(":")[0] for target in [*WRONG, *RIGHT]} | {"debugging.py"}
    assert tested == {path.name for path in EXAMPLES.glob("*.py")}


@pytest.mark.parametrize(("target", "failing"), WRONG.items(), ids=WRONG)
def test_exactly_these_checks_fail(target: str, failing: list[str]) -> None:
    assert names(run(target), Status.FAILED) == failing


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize(
    ("target", "cause"),
    [
        ("contrastive_loss.py:ContrastiveLoss", "finite_value"),
        ("adaptive_loss.py:AdaptiveLoss", "option_effect"),
        ("dynamic_weight_loss.py:DynamicWeightLoss", "finite_value"),
        ("masked_mean_bug.py:MaskedMeanLoss", "mask_value"),
    ],
)
def test_another_seed_sees_it_too(target: str, cause: str, seed: int) -> None:
    assert names(run(target, cause, seed=seed, profile="quick"), Status.FAILED) == [cause]


@pytest.mark.parametrize("target", RIGHT)
def test_a_right_example_passes(target: str) -> None:
    report = run(target, profile="quick")
    assert report.having(Status.FAILED) == ()
    assert report.having(Status.BLOCKED) == ()
    assert report.having(Status.ADVICE) == ()
    assert len(report.having(Status.PASSED)) >= 25


def test_the_contrastive_loss_overflows_at_a_temperature_and_a_similarity() -> None:
    found = failure("contrastive_loss.py:ContrastiveLoss", "finite_value")
    assert found.got.startswith("nan (similarity as a dot product up to ")
    assert found.got.endswith(", temperature = 0.1)")
    assert "situation saturated" in found.case


def test_the_adaptation_rate_changes_no_gradient() -> None:
    found = failure("adaptive_loss.py:AdaptiveLoss", "option_effect")
    assert found.got == "adaptation_rate changes the value of L and no gradient at all"
    assert found.cause == "adaptation_rate only adds a constant: it is detached, or went through .item()."


def test_the_adaptive_loss_of_nothing_is_its_own_constant() -> None:
    assert failure("adaptive_loss.py:AdaptiveLoss", "empty_batch").got == "-0.1"


@pytest.mark.parametrize(("check", "where"), [("finite_value", "forward raised"), ("empty_batch", "it raised")])
def test_the_dynamic_weights_divide_by_zero(check: str, where: str) -> None:
    found = failure("dynamic_weight_loss.py:DynamicWeightLoss", check)
    assert found.got == f"{where} ZeroDivisionError: float division by zero"
    assert "ratio = losses[i].item() / losses[i + 1].item()" in found.traceback
    assert "loss_conformance" not in found.traceback


def test_the_masked_mean_moves_with_padding() -> None:
    found = failure("masked_mean_bug.py:MaskedMeanLoss", "mask_value")
    assert found.law == "L(batch) must not change when only content at masked positions changes."
    assert found.changed.startswith('model_outputs["next_token_logprobs"][')
    assert "(masked" in found.changed
    assert "multiplies after the mean" in found.cause


def test_debugging_runs(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLES / "debugging.py"), run_name="__main__")
    assert "stable: " in capsys.readouterr().out

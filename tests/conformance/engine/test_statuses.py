"""Every way in which a check can end."""

import dataclasses

import pytest
import torch

from loss_conformance.checks import registry
from loss_conformance.verdict import Failure, Report, Status, Verdict
from loss_reference import Contract, LossFunction
from tests.conformance.engine.misbehaving import Detached, Prints, TokenMean, quick_engine, verdicts
from tests.conformance.facts.small_losses import weights


class Leaks(LossFunction):
    """Padding is part of the mean."""

    contract = Contract(family="supervised", level="token")

    def compute_loss(self, batch, model_outputs):
        return -model_outputs["next_token_logprobs"].mean() + 0 * weights(batch).sum()


def exempting(base: type[LossFunction], **exempt: str) -> type[LossFunction]:
    contract = dataclasses.replace(Contract(), exempt=exempt)
    return type(f"Exempt{base.__name__}", (base,), {"contract": contract})


def test_passed_says_how_many_cases_were_tried() -> None:
    (verdict,) = verdicts(TokenMean, "mask_value")
    assert (verdict.status, verdict.failure, verdict.reason) == (Status.PASSED, None, "")
    assert verdict.cases >= 3
    assert verdict.seconds > 0


def test_failed_holds_the_broken_law() -> None:
    (verdict,) = verdicts(Leaks, "mask_value")
    assert (verdict.group, verdict.status) == ("masking", Status.FAILED)
    assert verdict.failure is not None
    assert verdict.failure.law == "L(batch) must not change when only content at masked positions changes."
    assert verdict.failure.changed.startswith('model_outputs["next_token_logprobs"][')
    assert verdict.failure.seed == 0


def test_advice_fails_no_run() -> None:
    engine = quick_engine(Prints)
    assert engine.run("quiet").status is Status.ADVICE
    assert Report("t", (engine.run("scalar_output"), engine.run("quiet"))).conformant


def test_blocked_names_the_prerequisite() -> None:
    prerequisite, verdict = verdicts(Detached, "scalar_output", "mask_value")
    assert prerequisite.status is Status.FAILED
    assert verdict == Verdict(
        "mask_value", "masking", Status.BLOCKED, reason="blocked by scalar_output", seconds=verdict.seconds
    )


def test_blocked_follows_through() -> None:
    """mask_gradient requires mask_value, which requires scalar_output."""
    (verdict,) = verdicts(Detached, "mask_gradient")
    assert verdict.reason == "blocked by scalar_output"


def test_not_applicable_says_why() -> None:
    (verdict,) = verdicts(TokenMean, "upper_bound")
    assert (verdict.status, verdict.reason) == (Status.NOT_APPLICABLE, "no upper_bound is declared")


def test_an_exempted_law_that_fails_is_an_expected_failure() -> None:
    loss = exempting(Leaks, mask_value="padding counts on purpose")
    (verdict,) = verdicts(loss, "mask_value")
    assert (verdict.status, verdict.reason) == (Status.EXPECTED_FAILURE, "padding counts on purpose")
    assert verdict.failure is not None
    assert verdict.failure.law == "L(batch) must not change when only content at masked positions changes."


def test_an_expected_failure_blocks_nothing() -> None:
    loss = exempting(Leaks, mask_value="padding counts on purpose")
    (verdict,) = verdicts(loss, "mask_gradient")
    assert verdict.status is Status.FAILED


def test_exempted_advice_is_an_expected_failure_too() -> None:
    (verdict,) = verdicts(exempting(Prints, quiet="a demonstration"), "quiet")
    assert (verdict.status, verdict.reason) == (Status.EXPECTED_FAILURE, "a demonstration")


def test_an_exempted_law_that_holds_fails() -> None:
    (verdict,) = verdicts(exempting(TokenMean, mask_value="it does not"), "mask_value")
    assert (verdict.status, verdict.reason) == (Status.FAILED, "exempt, but the law holds")
    assert verdict.failure == Failure(
        law="An exempted law must really fail; this one holds.",
        got="exempt['mask_value']: 'it does not'",
        wanted="the law broken; remove the exemption",
    )


def test_an_exempted_law_that_does_not_apply_stays_so() -> None:
    (verdict,) = verdicts(exempting(TokenMean, upper_bound="none"), "upper_bound")
    assert verdict.status is Status.NOT_APPLICABLE


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("mask_valu", "exempt['mask_valu']; did you mean 'mask_value'?"),
        ("entirely_elsewhere", "exempt['entirely_elsewhere']"),
    ],
)
def test_exempting_a_check_that_does_not_exist_fails(name: str, said: str) -> None:
    (verdict,) = verdicts(exempting(TokenMean, **{name: "because"}), "scalar_output")
    assert verdict.status is Status.FAILED
    assert verdict.failure == Failure("Contract.exempt names checks that exist.", got=said)


def test_running_a_check_that_does_not_exist() -> None:
    with pytest.raises(ValueError, match=r"^no check is named 'mask_valu'; did you mean 'mask_value'\?$"):
        quick_engine(TokenMean).run("mask_valu")


class TestReport:
    passed = Verdict("a", "masking", Status.PASSED)

    @pytest.mark.parametrize("status", [Status.FAILED, Status.BLOCKED])
    def test_is_not_conformant_with_a_failure(self, status: Status) -> None:
        assert not Report("t", (self.passed, Verdict("b", "masking", status))).conformant

    @pytest.mark.parametrize("status", [Status.ADVICE, Status.EXPECTED_FAILURE, Status.NOT_APPLICABLE])
    def test_is_conformant_with_anything_else(self, status: Status) -> None:
        assert Report("t", (self.passed, Verdict("b", "masking", status))).conformant

    def test_is_not_conformant_when_nothing_was_tried(self) -> None:
        assert not Report("t", ()).conformant
        assert not Report("t", (Verdict("b", "masking", Status.NOT_APPLICABLE),)).conformant

    def test_having(self) -> None:
        other = Verdict("b", "masking", Status.ADVICE)
        assert Report("t", (self.passed, other)).having(Status.ADVICE) == (other,)


def test_a_check_runs_once() -> None:
    calls = 0

    class Counting(TokenMean):
        def compute_loss(self, batch, model_outputs):
            nonlocal calls
            calls += 1
            return super().compute_loss(batch, model_outputs)

    engine = quick_engine(Counting)
    first = engine.run("mask_value")
    after = calls
    assert engine.run("mask_value") is first
    engine.run("scalar_output")  # a prerequisite, run already
    assert calls == after > 0


def test_the_loss_is_not_touched_before_a_check_runs() -> None:
    class Untouchable(LossFunction):
        def compute_loss(self, batch, model_outputs):
            raise AssertionError("called")

    engine = quick_engine(Untouchable)
    assert len(engine.checks()) > 20
    assert engine.header()[0].endswith("called through the LossFunction interface")


def test_the_users_object_is_left_alone() -> None:
    class Scaled(TokenMean):
        def __init__(self, config=None):
            super().__init__(config)
            self.scale = torch.nn.Parameter(torch.tensor(1.5))

        def spoiled(self, value, mask):
            return value * self.scale

    loss = Scaled()
    quick_engine(loss).report()
    assert (loss.scale.dtype, loss.scale.item(), loss.scale.grad) == (torch.float32, 1.5, None)


def test_a_check_that_fails_itself_blames_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(trial: object) -> None:
        raise ZeroDivisionError("our own mistake")

    known = registry._checks
    monkeypatch.setitem(known, "mask_value", dataclasses.replace(known["mask_value"], law=broken))
    (verdict,) = verdicts(TokenMean, "mask_value")
    assert verdict.status is Status.BLOCKED
    assert verdict.reason == "the check itself failed, please report it: ZeroDivisionError: our own mistake"

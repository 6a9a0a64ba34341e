"""A loss that ends its process fails the check that was running, with what is known of it; the others go on."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from loss_conformance import check_loss
from loss_conformance.apart import process
from loss_conformance.global_state import changed_state, global_state
from loss_conformance.profile import PROFILES
from loss_conformance.subject.protocol import CannotFeed
from loss_conformance.subject.subject import TargetError
from loss_conformance.verdict import Report, Status
from tests.conformance.apart import hostile

CHECKS = ("scalar_output", "empty_batch", "mask_value")


@pytest.fixture(autouse=True)
def process_as_it_was() -> Iterator[None]:
    before = global_state()
    yield
    assert changed_state(before, global_state()) == {}


def ended(loss: type, *checks: str) -> Report:
    return check_loss(loss, profile="quick", device="cpu", checks=checks or CHECKS)


def told(report: Report) -> list[tuple[str, str]]:
    return [(v.check, v.failure.got if v.failure else "") for v in report.having(Status.FAILED)]


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        (hostile.Aborts, "the process died: SIGABRT (abort)"),
        (hostile.Leaves, "it ended the process, with exit status 0"),
        (hostile.Crashes, "the process died: SIGSEGV (invalid memory access)"),
        (hostile.IsKilled, "the process died: SIGKILL (killed, usually because memory ran out)"),
        (hostile.InterruptsItself, "it raised KeyboardInterrupt, which ends a program"),
    ],
)
def test_the_check_that_was_running_fails(loss: type, said: str) -> None:
    report = ended(loss)
    assert told(report) == [("empty_batch", said)]
    assert [v.check for v in report.having(Status.PASSED)] == ["scalar_output", "mask_value"]


@pytest.mark.parametrize("loss", [hostile.Aborts, hostile.Leaves, hostile.Crashes])
def test_it_says_on_which_case_and_in_which_line(loss: type) -> None:
    (verdict,) = ended(loss).having(Status.FAILED)
    assert verdict.failure is not None
    assert verdict.failure.case.startswith("B=3 S=6, token_mask=[[0,0,0,0,0,0]")
    assert verdict.failure.wanted == "a loss, or an exception"
    frames = [line for line in verdict.failure.traceback.splitlines() if line.startswith("  File")]
    assert [frame.rpartition(", in ")[2] for frame in frames] == ["compute_loss", "spoiled", "harm"]
    assert all("tests/conformance" in frame for frame in frames)


@pytest.mark.parametrize("loss", [hostile.DeafToTime, hostile.SwallowsTime])
def test_what_no_signal_stops_is_stopped(loss: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "GRACE", 0.5)
    monkeypatch.setitem(PROFILES, "quick", replace(PROFILES["quick"], seconds=1.5))
    report = ended(loss)
    assert told(report) == [("empty_batch", "no answer, and nothing that could interrupt it")]
    assert "in harm" in report.having(Status.FAILED)[0].failure.traceback
    assert [v.check for v in report.having(Status.PASSED)] == ["scalar_output", "mask_value"]


def test_what_rests_on_the_check_is_blocked() -> None:
    report = ended(hostile.AbortsWithoutCounts)
    assert told(report) == [("scalar_output", "the process died: SIGABRT (abort)")]
    assert [v.reason for v in report.having(Status.BLOCKED)] == ["blocked by scalar_output"] * 2


def test_a_death_on_the_first_call_is_said_once() -> None:
    with pytest.raises(CannotFeed, match=r"on its first call the process died: SIGABRT \(abort\)") as refused:
        ended(hostile.AbortsAtOnce)
    assert "LOSS_CONFORMANCE_IN_PROCESS=1" in str(refused.value)
    assert "os.abort()" in refused.value.traceback


def test_a_death_in_the_constructor_is_a_bad_target() -> None:
    with pytest.raises(TargetError, match="AbortsWhenMade: while it was constructed, the process died: SIGABRT"):
        ended(hostile.AbortsWhenMade)


def test_a_loss_that_comes_back_twice_answers_once() -> None:
    assert told(ended(hostile.Forks)) == []


def test_a_loss_that_closes_what_it_did_not_open_is_told_so() -> None:
    assert [check for check, _ in told(ended(hostile.ClosesEverything))] == ["empty_batch"]


@pytest.mark.parametrize("loss", [hostile.Aborts, hostile.ChangesEverything, hostile.ClosesEverything])
def test_the_next_loss_is_not_affected(loss: type) -> None:
    ended(loss)
    report = ended(hostile.Sound)
    assert [v.check for v in report.having(Status.PASSED)] == list(CHECKS)

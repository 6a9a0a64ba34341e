"""Verdicts as pytest outcomes, and the exit status of the run."""

import pytest

from .fake_engine import MASK_STATEMENT


def run(runner: pytest.Pytester, target: str, *arguments: str) -> pytest.RunResult:
    return runner.runpytest_inprocess("--loss-conformance", target, *arguments)


def test_a_sound_loss_passes(runner: pytest.Pytester) -> None:
    result = run(runner, "mymodule.Sound")
    assert result.ret == 0
    assert result.parseoutcomes() == {"passed": 3, "skipped": 1, "xfailed": 1, "advice": 1}


def test_a_broken_law_fails(runner: pytest.Pytester) -> None:
    result = run(runner, "mymodule.MaskBug")
    assert result.ret == 1
    assert result.parseoutcomes() == {"passed": 2, "failed": 1, "skipped": 1, "xfailed": 1, "advice": 1}
    result.stdout.fnmatch_lines([f"FAILED mymodule.MaskBug::mask_value - {MASK_STATEMENT[:20]}*"])


def test_a_law_that_does_not_apply_is_skipped_with_the_fact(runner: pytest.Pytester) -> None:
    result = run(runner, "mymodule.Sound", "-rs")
    result.stdout.fnmatch_lines(["SKIPPED [[]1[]] mymodule.Sound: not applicable: lower_bound is not known"])


def test_advice_fails_when_strict(runner: pytest.Pytester) -> None:
    result = run(runner, "mymodule.Sound", "--loss-strict")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["FAILED mymodule.Sound::host_sync - No host synchronisation."])


def test_an_expected_failure_fails_under_runxfail(runner: pytest.Pytester) -> None:
    result = run(runner, "mymodule.Sound", "--runxfail")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["mymodule.Sound::batch_order EXPECTED FAILURE", "  L(perm) = L."])


def test_an_exempt_check_that_holds_fails(runner: pytest.Pytester) -> None:
    result = run(runner, "mymodule.ExemptHolds")
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        [
            "mymodule.ExemptHolds::batch_order FAILED",
            "  exempt, but the law holds",
            "  Reproduce        pytest --loss-conformance mymodule.ExemptHolds -k batch_order --loss-seed 0",
        ]
    )


def test_blocked_checks_are_skipped_beside_their_cause(runner: pytest.Pytester) -> None:
    result = run(runner, "mymodule.NoScalar", "-rs")
    assert result.parseoutcomes() == {"failed": 1, "skipped": 3, "xfailed": 1, "advice": 1}
    result.stdout.fnmatch_lines(["SKIPPED [[]1[]] mymodule.NoScalar: blocked by finite_value"])


def test_a_blocked_check_alone_shows_its_root_cause(runner: pytest.Pytester) -> None:
    result = run(runner, "mymodule.NoScalar", "-k", "mask_value or finite_value")
    assert result.ret == 1
    assert result.parseoutcomes() == {"failed": 1, "skipped": 1, "deselected": 4}
    result.stdout.fnmatch_lines(
        [
            "mymodule.NoScalar::finite_value BLOCKED by scalar_output",
            "mymodule.NoScalar::scalar_output FAILED",
            "  The loss is a scalar.",
        ]
    )


def test_nothing_applicable_is_not_green(runner: pytest.Pytester) -> None:
    result = run(runner, "mymodule.NothingApplies")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["nothing was tested: none of the checks that ran applies"])


def test_nothing_applicable_for_one_of_two_is_not_green(runner: pytest.Pytester) -> None:
    result = run(runner, "mymodule.NothingApplies", "--loss-conformance", "mymodule.Sound")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["mymodule.NothingApplies: nothing was tested: no check applies"])


def test_selecting_only_what_does_not_apply_is_not_green(runner: pytest.Pytester) -> None:
    assert run(runner, "mymodule.Sound", "-k", "lower_bound").ret == 1


@pytest.mark.parametrize("target", ["mymodule.Unfeedable", "mymodule.NeverFed"])
def test_a_loss_that_cannot_be_fed_is_said_once_and_not_green(runner: pytest.Pytester, target: str) -> None:
    result = run(runner, target)
    assert result.ret == 1
    assert result.parseoutcomes()["failed"] == 1
    assert result.stdout.str().count("could not be run") == 1
    result.stdout.no_fnmatch_line("*Traceback*")


def test_the_users_frames_are_shown_and_no_others(runner: pytest.Pytester) -> None:
    result = run(runner, "mymodule.NeverFed")
    result.stdout.fnmatch_lines(
        [
            "mymodule.NeverFed::inputs ERROR",
            "  no inputs were found",
            '  File "mymodule.py", line 7, in forward',
            "  KeyError: 3",
        ]
    )
    result.stdout.no_fnmatch_line("*items.py*")


def test_a_fault_of_ours_says_so(runner: pytest.Pytester) -> None:
    result = run(runner, "mymodule.Crashes")
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        [
            "mymodule.Crashes::finite_value ERROR",
            "  loss-conformance itself failed, which says nothing about the loss: ZeroDivisionError: division by zero",
            "  Please report it with the output of --full-trace.",
        ]
    )
    result.stdout.no_fnmatch_line("*items.py*")


def test_warnings_as_errors_change_nothing(runner: pytest.Pytester) -> None:
    assert run(runner, "mymodule.Sound", "-W", "error", "--strict-markers", "--strict-config").ret == 0

"""conformance_checks: one test for each check, in people's own test files."""

import pytest
import torch._dynamo
import torch._inductor.test_operators  # noqa: F401 - a pytest run inside this one cannot load them a second time

from loss_conformance import conformance_checks
from loss_conformance.checks.registry import every_check
from tests.conformance.doors.own_batches import MaskedMean

TESTS = """
from loss_conformance import conformance_checks
from tests.conformance.doors.own_batches import MaskedMean, MeanOfPadding


@conformance_checks(MaskedMean, checks=("masking",), profile="quick")
def test_right(check):
    assert check().check == check.name


@conformance_checks(MeanOfPadding, checks=("mask_value", "mask_gradient", "finite_value"), profile="quick")
def test_wrong(check):
    check()
"""

NEVER_BUILT = """
from loss_conformance import conformance_checks


def factory():
    raise RuntimeError("built while collecting")


@conformance_checks(factory, checks=("mask_value",))
def test_never_run(check):
    check()
"""

MISSPELT = """
from loss_conformance import conformance_checks
from tests.conformance.doors.own_batches import MaskedMean


@conformance_checks(MaskedMean, checks=("mask_valu",))
def test_nothing(check):
    check()
"""


def test_one_test_for_each_check(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(TESTS)
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider", "-v")
    masking = [check.name for check in every_check() if check.group == "masking" and check.belongs_to("quick")]
    for name in masking:
        result.stdout.fnmatch_lines([f"*::test_right[[]{name}[]] PASSED*"])
    result.stdout.fnmatch_lines(["*::test_wrong[[]mask_value[]] FAILED*"])
    result.stdout.fnmatch_lines(["*::test_wrong[[]finite_value[]] PASSED*"])
    result.assert_outcomes(passed=len(masking) + 1, failed=2)


def test_a_broken_law_reads_like_a_failing_run(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(TESTS)
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider", "-k", "test_wrong")
    result.stdout.fnmatch_lines(
        [
            "*tests.conformance.doors.own_batches.MeanOfPadding::mask_value FAILED",
            "*L(batch) must not change when only content at masked positions changes.",
            "*smallest case   B=2 S=3, token_mask=*shrunk in*",
        ]
    )
    result.stdout.fnmatch_lines(["*own_batches.MeanOfPadding::mask_gradient blocked by mask_value"])


def test_tests_are_selected_by_the_name_of_the_check(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(TESTS)
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider", "-k", "finite_value")
    result.assert_outcomes(passed=1)


def test_collecting_constructs_no_loss(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(NEVER_BUILT)
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider", "--collect-only", "-q")
    result.stdout.fnmatch_lines(["*::test_never_run[[]mask_value[]]"])
    result.stdout.no_fnmatch_line("*built while collecting*")


def test_a_misspelt_check_is_an_error_of_collection(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(MISSPELT)
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider")
    result.stdout.fnmatch_lines(["*ValueError: no check or group is named 'mask_valu'; did you mean 'mask_value'?"])
    result.assert_outcomes(errors=1)


def test_an_unknown_keyword_is_an_error() -> None:
    with pytest.raises(TypeError, match=r"^conformance_checks\(\) got an unexpected keyword argument 'cofig'$"):
        conformance_checks(MaskedMean, cofig={})

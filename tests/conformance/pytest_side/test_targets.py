"""Which targets run, and what runs beside them."""

from pathlib import Path

import pytest

from .test_selection import collect, ids

SOUND = "--loss-conformance=mymodule.Sound"
NOT_RUN = "test_own.py::test_own"


@pytest.fixture
def with_own_test(runner: pytest.Pytester) -> pytest.Pytester:
    runner.makepyfile(test_own="def test_own(): pass")
    return runner


def test_the_option_alone_runs_the_checks_alone(with_own_test: pytest.Pytester) -> None:
    assert NOT_RUN not in collect(with_own_test, SOUND)
    assert len(collect(with_own_test, SOUND)) == 6


def test_testpaths_are_no_path_the_user_gave(with_own_test: pytest.Pytester) -> None:
    with_own_test.makeini("[pytest]\ntestpaths = .")
    assert NOT_RUN not in collect(with_own_test, SOUND)


def test_with_a_path_both_run(with_own_test: pytest.Pytester) -> None:
    assert collect(with_own_test, SOUND, "test_own.py")[:2] == [NOT_RUN, "mymodule.Sound::scalar_output"]


def test_ini_targets_run_beside_the_tests(with_own_test: pytest.Pytester) -> None:
    with_own_test.makepyprojecttoml('[tool.pytest.ini_options]\nloss_conformance = ["mymodule.Sound", "a.py:Loss"]')
    found = collect(with_own_test)
    assert found[0] == NOT_RUN
    assert len(found) == 1 + 6 + 6


def test_ini_targets_stay_out_of_a_run_of_some_paths(with_own_test: pytest.Pytester) -> None:
    with_own_test.makeini("[pytest]\nloss_conformance = mymodule.Sound")
    result = with_own_test.runpytest_inprocess("test_own.py")
    assert result.parseoutcomes() == {"passed": 1}
    result.stdout.no_fnmatch_line("*onformance:*")


def test_the_option_replaces_the_ini_targets(with_own_test: pytest.Pytester) -> None:
    with_own_test.makeini("[pytest]\nloss_conformance = mymodule.Sound")
    found = collect(with_own_test, "--loss-conformance=mymodule.MaskBug")
    assert {name.partition("::")[0] for name in found} == {"mymodule.MaskBug"}


def test_the_same_target_twice_runs_once(runner: pytest.Pytester) -> None:
    result = runner.runpytest_inprocess(SOUND, SOUND)
    assert result.parseoutcomes()["passed"] == 3
    result.stdout.fnmatch_lines(["note: mymodule.Sound was given more than once and runs once"])


def test_losses_of_one_name_in_two_files_stay_apart(runner: pytest.Pytester) -> None:
    result = runner.runpytest_inprocess("--loss-conformance=a.py:Loss", "--loss-conformance=b/a.py:Loss")
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        [
            "b/a.py:Loss::mask_value FAILED",
            "                   python .loss-conformance/b_a.py_Loss-mask_value.py",
            "a.py:Loss: 5 applicable, 3 passed, 1 expected failure, 1 advice; 1 not applicable",
            "b/a.py:Loss: 5 applicable, 2 passed, 1 failed, 1 expected failure, 1 advice; 1 not applicable",
        ]
    )


def test_files_of_a_failure_are_hidden_from_git(runner: pytest.Pytester) -> None:
    runner.runpytest_inprocess("--loss-conformance=mymodule.MaskBug")
    kept = sorted(path.name for path in Path(runner.path, ".loss-conformance").iterdir())
    assert kept == [".gitignore", "mask_value.py"]


def test_a_green_run_leaves_no_files(runner: pytest.Pytester) -> None:
    runner.runpytest_inprocess(SOUND, "-p", "no:cacheprovider")
    assert not Path(runner.path, ".loss-conformance").exists()


def test_collect_names_every_target(runner: pytest.Pytester) -> None:
    found = collect(runner, SOUND, "--loss-conformance=mymodule.MaskBug", "-k", "mask_value")
    assert found == [*ids("mask_value"), *ids("mask_value", target="mymodule.MaskBug")]

"""Bad input: exit status 4, one message, nothing else."""

import pytest

NOWHERE = "ERROR: mymodule.Nowhere: module 'mymodule' has no 'Nowhere'; did you mean 'Now'?"


def test_no_such_target(runner: pytest.Pytester) -> None:
    result = runner.runpytest_inprocess("--loss-conformance=mymodule.Nowhere")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert [line for line in result.errlines if line] == [NOWHERE]


def test_no_such_target_beside_one_that_exists_runs_nothing(runner: pytest.Pytester) -> None:
    runner.makepyfile(test_own="def test_own(): pass")
    arguments = ["--loss-conformance=mymodule.Sound", "--loss-conformance=mymodule.Nowhere", "test_own.py"]
    result = runner.runpytest_inprocess(*arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert result.parseoutcomes() == {}


def test_no_such_target_with_workers(worker_runner: pytest.Pytester) -> None:
    result = worker_runner.runpytest_inprocess("--loss-conformance=mymodule.Nowhere", "-n2")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert result.outlines.count(NOWHERE) == 1
    result.stdout.no_fnmatch_line("*INTERNALERROR*")


def test_a_module_that_raises_shows_the_users_traceback_only(runner: pytest.Pytester) -> None:
    result = runner.runpytest_inprocess("--loss-conformance=mymodule.Raises")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert [line for line in result.errlines if line] == [
        "ERROR: mymodule raised while it was imported",
        'File "mymodule.py", line 1',
        "ZeroDivisionError: no",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--loss-profile=fast"], "*argument --loss-profile: invalid choice: 'fast'*quick*standard*thorough*"),
        (["--loss-seed=x"], "*argument --loss-seed: invalid int value: 'x'*"),
        (["--loss-conformance"], "*argument --loss-conformance: expected one argument*"),
    ],
)
def test_malformed_options(runner: pytest.Pytester, arguments: list[str], message: str) -> None:
    result = runner.runpytest_inprocess(*arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([message])

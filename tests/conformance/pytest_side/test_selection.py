"""Everything pytest can do with items works with checks."""

import textwrap
import xml.etree.ElementTree as ET

import pytest

SOUND = "--loss-conformance=mymodule.Sound"
BUG = "--loss-conformance=mymodule.MaskBug"
NAMES = ["scalar_output", "finite_value", "mask_value", "lower_bound", "host_sync", "batch_order"]


def collected(result: pytest.RunResult) -> list[str]:
    return [line for line in result.outlines if "::" in line]


def ids(*names: str, target: str = "mymodule.Sound") -> list[str]:
    return [f"{target}::{name}" for name in names]


def collect(runner: pytest.Pytester, *arguments: str) -> list[str]:
    return collected(runner.runpytest_inprocess("--collect-only", "-q", *arguments))


def test_one_item_for_each_check_in_running_order(runner: pytest.Pytester) -> None:
    assert collect(runner, SOUND) == ids(*NAMES)


def test_the_tree_groups_checks_under_the_target(runner: pytest.Pytester) -> None:
    result = runner.runpytest_inprocess("--collect-only", SOUND, "-k", "mask_value")
    result.stdout.fnmatch_lines(
        ["collected 6 items / 5 deselected / 1 selected", "<LossTarget mymodule.Sound>", "  <LossCheck mask_value>"]
    )


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["-k", "mask_value"], ["mask_value"]),
        (["-k", "masking"], ["mask_value"]),
        (["-k", "masking or finite"], ["finite_value", "mask_value"]),
        (["-k", "not Sound"], []),
        (["-m", "loss_conformance"], NAMES),
        (["-m", "not loss_conformance"], []),
        (["--deselect", "mymodule.Sound::mask_value"], [name for name in NAMES if name != "mask_value"]),
        (["--deselect", "mymodule.Sound"], []),
    ],
)
def test_selection(runner: pytest.Pytester, arguments: list[str], names: list[str]) -> None:
    assert collect(runner, SOUND, *arguments) == ids(*names)


def test_a_selection_that_leaves_nothing_is_not_green(runner: pytest.Pytester) -> None:
    assert runner.runpytest_inprocess(SOUND, "-k", "nonsense").ret == pytest.ExitCode.NO_TESTS_COLLECTED


def test_last_failed(runner: pytest.Pytester) -> None:
    runner.runpytest_inprocess(BUG)
    assert collect(runner, BUG, "--lf") == ids("mask_value", target="mymodule.MaskBug")
    assert collect(runner, BUG, "--ff")[0] == "mymodule.MaskBug::mask_value"


def test_stop_at_the_first_failure(runner: pytest.Pytester) -> None:
    result = runner.runpytest_inprocess(BUG, "-x")
    assert result.parseoutcomes() == {"passed": 2, "failed": 1}
    result.stdout.fnmatch_lines(["*not a conformance result: 3 of 6 checks ran"])


@pytest.mark.parametrize(("verbosity", "between"), [("-v", " "), ("-vv", " * ")])
def test_verbose_ids_read_as_typed(runner: pytest.Pytester, verbosity: str, between: str) -> None:
    result = runner.runpytest_inprocess(BUG, verbosity)
    result.stdout.fnmatch_lines([f"mymodule.MaskBug::mask_value{between}FAILED *"])


def test_junit(runner: pytest.Pytester) -> None:
    runner.runpytest_inprocess(BUG, "--junitxml=junit.xml", "-o", "junit_family=xunit1")
    cases = {case.get("name"): case for case in ET.parse(runner.path / "junit.xml").iter("testcase")}
    assert list(cases) == NAMES
    broken = cases["mask_value"]
    assert broken.get("classname") == "mymodule.MaskBug"
    failure = broken.find("failure")
    assert failure is not None
    assert (failure.text or "").startswith("mymodule.MaskBug::mask_value FAILED\n  L(batch) must not change")
    properties = {entry.get("name"): entry.get("value") for entry in broken.iter("property")}
    assert properties == {
        "loss_conformance.group": "masking",
        "loss_conformance.severity": "must",
        "loss_conformance.status": "failed",
        "loss_conformance.cases": "3",
    }


def test_two_workers_run_the_same_and_say_the_same(worker_runner: pytest.Pytester) -> None:
    alone = worker_runner.runpytest_inprocess(BUG)
    spread = worker_runner.runpytest_inprocess(BUG, "-n2")
    assert spread.ret == alone.ret == 1
    assert spread.parseoutcomes() == alone.parseoutcomes()
    assert _block(spread) == _block(alone)
    spread.stdout.fnmatch_lines(
        [
            "mymodule.MaskBug: 5 applicable, 2 passed, 1 failed, 1 expected failure, 1 advice; 1 not applicable",
            "  mymodule.MaskBug: Loss, called through the interface",
            "  warning           the clip region was never entered",
        ]
    )


def test_workers_have_one_torch_thread_each(worker_runner: pytest.Pytester) -> None:
    worker_runner.makeconftest(
        """
        import torch
        from tests.conformance.pytest_side import fake_engine

        class OneThread(fake_engine.FakeEngine):
            def run(self, name):
                assert torch.get_num_threads() == 1
                return super().run(name)

        def pytest_configure(config):
            if hasattr(config, "workerinput"):
                fake_engine.install()
                fake_engine.FakeEngine = OneThread
        """
    )
    assert worker_runner.runpytest_inprocess(SOUND, "-n1").ret == 0


def test_the_controller_of_workers_does_not_import_torch(worker_runner: pytest.Pytester) -> None:
    own = (worker_runner.path / "conftest.py").read_text()
    report = """
        def pytest_unconfigure(config):
            import sys
            if not hasattr(config, "workerinput"):
                print("torch imported:", "torch" in sys.modules)
        """
    worker_runner.makeconftest(own + textwrap.dedent(report))
    result = worker_runner.runpytest_subprocess(SOUND, "-n1")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["torch imported: False"])


def _block(result: pytest.RunResult) -> list[str]:
    lines = result.outlines
    start = lines.index("mymodule.MaskBug::mask_value FAILED")
    return lines[start : lines.index("                   python .loss-conformance/mask_value.py") + 1]

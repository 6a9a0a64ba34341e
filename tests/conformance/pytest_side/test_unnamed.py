"""A run that names no loss: nothing printed, nothing heavy imported."""

import sys

import pytest

OWN_TEST = """
import sys

def test_own():
    assert "torch" not in sys.modules
    assert "hypothesis" not in sys.modules
    assert not [name for name in sys.modules if name.startswith(("loss_reference", "loss_conformance.pytest_side"))]
"""


def test_nothing_heavy_is_imported(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_own=OWN_TEST)
    result = pytester.runpytest_subprocess()
    assert result.parseoutcomes() == {"passed": 1}
    loud = [line for line in result.outlines if "onformance" in line and not line.startswith("plugins:")]
    assert loud == []
    assert [line for line in result.errlines if line] == []


def test_the_plugin_module_itself_is_light(pytester: pytest.Pytester) -> None:
    code = "import sys, loss_conformance.plugin; print(sorted({'torch', 'hypothesis', 'numpy'} & set(sys.modules)))"
    assert pytester.run(sys.executable, "-c", code).outlines == ["[]"]


def test_options_and_marker_are_documented(pytester: pytest.Pytester) -> None:
    pytester.runpytest_inprocess("--help").stdout.fnmatch_lines(
        ["loss conformance:", "  --loss-conformance=TARGET", "  --loss-list *", "  loss_conformance (linelist):*"]
    )
    pytester.runpytest_inprocess("--markers").stdout.fnmatch_lines(["@pytest.mark.loss_conformance: *"])


def test_the_plugin_can_be_switched_off(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_own="def test_own(): pass")
    assert pytester.runpytest_inprocess("-p", "no:loss_conformance").ret == 0

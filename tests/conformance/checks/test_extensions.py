"""Checks that another distribution brings are listed and run like any other; broken ones are told in one message."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from loss_conformance import check_loss, extensions
from loss_conformance.checks import registry
from loss_conformance.checks.registry import every_check, select_checks
from loss_conformance.command import main
from loss_conformance.extensions import BrokenExtension
from loss_conformance.verdict import Status
from tests.conformance.engine.misbehaving import TokenMean

LAW = """
from loss_conformance import Broken, check


@check(
    group="positivity",
    statement="L is at most 1000.",
    over=("typical", "full"),
    why="Our scheduler stops a run whose loss is larger.",
    fix="Divide by the number of tokens.",
)
def {name}(trial):
    value = trial.finite_base.value
    if value > {most}:
        raise Broken(value, "at most {most}")
"""

Distribution = Callable[..., Path]


def distribution(folder: Path, source: str, *, name: str = "my-losses", entry: str = "ours = my_losses.checks") -> Path:
    """Write an installed distribution with one module into ``folder``."""
    package = folder / name.replace("-", "_")
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "checks.py").write_text(source)
    info = folder / f"{package.name}-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(f"[loss_conformance.checks]\n{entry}\n")
    return folder


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Distribution:
    monkeypatch.setattr(registry, "_checks", dict(registry._checks))
    monkeypatch.setattr(extensions, "_tried", [])
    for name in [name for name in sys.modules if name.startswith(("my_losses", "other_losses"))]:
        monkeypatch.delitem(sys.modules, name)

    def install(source: str, **how: str) -> Path:
        folder = distribution(tmp_path / "site", source, **how)
        monkeypatch.syspath_prepend(folder)
        return folder

    return install


def law(name: str = "our_maximum", most: float = 1000.0) -> str:
    return LAW.format(name=name, most=most)


def test_its_check_is_listed_where_its_group_is(installed: Distribution, capsys: pytest.CaptureFixture[str]) -> None:
    installed(law())
    names = [check.name for check in every_check() if check.group == "positivity"]
    assert names[-1] == "our_maximum"
    (found,) = select_checks(["our_maximum"])
    assert found.origin == "my-losses 1.2 (my_losses.checks)"
    assert main(["explain", "our_maximum"]) == 0
    assert "from          my-losses 1.2 (my_losses.checks)" in capsys.readouterr().out


@pytest.mark.parametrize(("most", "status"), [(1000.0, Status.PASSED), (0.0, Status.FAILED)])
def test_its_check_runs(installed: Distribution, most: float, status: Status) -> None:
    installed(law(most=most))
    report = check_loss(TokenMean, checks=("our_maximum",), profile="quick")
    assert [(v.check, v.status) for v in report.verdicts] == [("our_maximum", status)]


@pytest.mark.parametrize(
    ("source", "entry", "said"),
    [
        ("1 / 0", "ours = my_losses.checks", "ZeroDivisionError: division by zero ("),
        ("raise SystemExit(3)", "ours = my_losses.checks", "SystemExit: 3 ("),
        ("", "ours = my_losses.check", "ModuleNotFoundError: No module named 'my_losses.check'"),
        (law(), "ours = my_losses.checks:laws", "AttributeError: module 'my_losses.checks' has no attribute 'laws'"),
        ("", "ours = my_losses.checks", "ValueError: my_losses.checks registers no check; decorate a law in it with"),
        (
            law("mask_value"),
            "ours = my_losses.checks",
            "CheckDefinitionError: check 'mask_value' of my-losses 1.2 (my_losses.checks): the name is taken by one of "
            "loss_conformance.checks.masking; give it another",
        ),
        (
            law().replace('"positivity"', '"positivty"'),
            "ours = my_losses.checks",
            "CheckDefinitionError: check 'our_maximum': unknown group 'positivty'; did you mean 'positivity'?",
        ),
    ],
)
def test_what_cannot_be_loaded_is_told_with_its_distribution(
    installed: Distribution, source: str, entry: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    installed(source, entry=entry)
    with pytest.raises(BrokenExtension) as broken:
        every_check()
    assert str(broken.value).startswith(f"the checks of my-losses 1.2 cannot be loaded: {said}")
    assert str(broken.value).endswith(
        f"\n  entry point ours = {entry.partition(' = ')[2]!r} in the group loss_conformance.checks; "
        "repair it, or uninstall my-losses"
    )
    # Once more the same, from every door, and nothing half registered.
    assert "our_maximum" not in registry._checks
    for command in (["list"], ["explain", "masking"], ["check", "loss_reference.DPOLoss"]):
        assert main(command) == 4
        assert capsys.readouterr().err == f"ERROR: {broken.value}\n"


def test_two_distributions_with_one_name_are_both_named(installed: Distribution) -> None:
    installed(law())
    installed(law(), name="other-losses", entry="theirs = other_losses.checks")
    with pytest.raises(BrokenExtension) as broken:
        every_check()
    assert (
        "check 'our_maximum' of other-losses 1.2 (other_losses.checks): the name is taken by one of "
        "my-losses 1.2 (my_losses.checks); give it another"
    ) in str(broken.value)


@pytest.mark.parametrize("workers", ["-n0", "-n2"])
def test_a_run_lists_it_and_fails_by_it(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, workers: str
) -> None:
    distribution(pytester.path / "site", law(most=0.0))
    monkeypatch.setenv("PYTHONPATH", str(pytester.path / "site"), prepend=":")
    arguments = ("--loss-conformance", "loss_reference.NLLLoss", "-k", "our_maximum", "--loss-profile=quick", workers)
    result = pytester.runpytest_subprocess(*arguments)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["loss_reference.NLLLoss::our_maximum FAILED", "  L is at most 1000."])


@pytest.mark.parametrize("arguments", [("--loss-conformance", "loss_reference.NLLLoss"), ("--loss-list",)])
def test_a_run_with_a_broken_one_is_a_usage_error(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    distribution(pytester.path / "site", "1 / 0")
    monkeypatch.setenv("PYTHONPATH", str(pytester.path / "site"), prepend=":")
    result = pytester.runpytest_subprocess(*arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: the checks of my-losses 1.2 cannot be loaded: ZeroDivisionError: *"])
    assert "Traceback" not in result.stderr.str() + result.stdout.str()

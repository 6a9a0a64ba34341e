"""The command line and the script that show a failure again."""

import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from loss_conformance.replay import replay
from loss_conformance.report.reproducer import write_reproducer
from loss_conformance.run_options import RunOptions
from tests.conformance.pytest_side.fake_engine import CHECKS, make_check

MASK_VALUE = CHECKS[2]

SCRIPT = '''\
"""mymodule.MaskBug::mask_value: L(batch) must not change when only content at masked positions changes.

Prints the failure and exits 1 while the law is broken, FIXED and 0 once it holds, ERROR and 2 when it cannot be run.
"""

from pathlib import Path

from loss_conformance.replay import replay

ROOT = (Path(__file__).parent / '..').resolve()

if __name__ == "__main__":
    raise SystemExit(
        replay(
            'mymodule.MaskBug',
            'mask_value',
            root=ROOT,
            config='{"beta": 0.1}',
            profile='quick',
            seed=12,
        )
    )
'''


def written(target: str, options: RunOptions, **how: object) -> Path:
    path = write_reproducer(target, MASK_VALUE, options, **how)  # type: ignore[arg-type]
    assert path is not None
    return path


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({}, "pytest --loss-conformance m.L -k mask_value --loss-seed 0"),
        ({"seed": 12}, "pytest --loss-conformance m.L -k mask_value --loss-seed 12"),
        (
            {
                "config": '{"beta": 1}',
                "contract": "m.contract",
                "baseline": "dpo",
                "profile": "thorough",
                "device": "cpu",
            },
            "pytest --loss-conformance m.L -k mask_value --loss-config '{\"beta\": 1}' --loss-contract m.contract "
            "--loss-baseline dpo --loss-profile thorough --loss-device cpu --loss-seed 0",
        ),
        ({"report": "out", "strict": True}, "pytest --loss-conformance m.L -k mask_value --loss-seed 0"),
    ],
)
def test_the_command_names_what_decides_the_verdict(given: dict[str, object], line: str) -> None:
    assert RunOptions(**given).command(["m.L"], "mask_value") == line  # type: ignore[arg-type]


def test_targets_with_spaces_are_quoted() -> None:
    assert RunOptions().command(["my dir/a.py:L"], "x").startswith("pytest --loss-conformance 'my dir/a.py:L' -k x")


def test_the_script(options: RunOptions) -> None:
    options = replace(options, config='{"beta": 0.1}', profile="quick", seed=12)
    path = written("mymodule.MaskBug", options)
    assert path.read_text() == SCRIPT
    assert path == Path(options.root, ".loss-conformance", "mask_value.py")
    assert (path.parent / ".gitignore").read_text() == "*\n"


def test_the_script_of_a_report_lies_in_the_report(options: RunOptions) -> None:
    path = written("b/a.py:Loss", replace(options, report="out/today"), named=True)
    assert path == Path(options.root, "out", "today", "b_a.py_Loss-mask_value.py")
    assert "ROOT = (Path(__file__).parent / '../..').resolve()" in path.read_text()


def test_a_statement_cannot_break_the_script(options: RunOptions) -> None:
    path = write_reproducer("m.L", make_check("law", "masking", 'a """ b \\'), options)
    assert path is not None
    compile(path.read_text(), str(path), "exec")


def test_nothing_is_said_where_nothing_can_be_written(options: RunOptions) -> None:
    Path(options.root, ".loss-conformance").write_text("a file is in the way")
    assert write_reproducer("m.L", MASK_VALUE, options) is None


@pytest.mark.parametrize(
    ("target", "check", "status", "text"),
    [
        ("mymodule.MaskBug", "mask_value", 1, "mymodule.MaskBug::mask_value FAILED\n  L(batch) must not"),
        ("mymodule.Sound", "mask_value", 0, "FIXED mymodule.Sound::mask_value"),
        (
            "mymodule.Sound",
            "lower_bound",
            2,
            "ERROR mymodule.Sound::lower_bound: not applicable, lower_bound is not known",
        ),
        ("mymodule.NoScalar", "mask_value", 2, "ERROR mymodule.NoScalar::mask_value: blocked, blocked by finite_value"),
        ("mymodule.Sound", "nonsense", 2, "ERROR mymodule.Sound: the profile 'standard' has no check 'nonsense'"),
        ("mymodule.Nowhere", "mask_value", 2, "ERROR mymodule.Nowhere::mask_value: mymodule.Nowhere: module"),
        ("mymodule.NeverFed", "mask_value", 2, "ERROR mymodule.NeverFed::mask_value: no inputs were found\nFile"),
    ],
)
def test_replay(options: RunOptions, target: str, check: str, status: int, text: str) -> None:
    said: list[str] = []
    assert replay(target, check, root=options.root, out=said.append) == status
    assert "\n".join(said).startswith(text)


def test_the_script_runs(options: RunOptions, capsys: pytest.CaptureFixture[str]) -> None:
    path = written("mymodule.MaskBug", options)
    with pytest.raises(SystemExit) as finished:
        runpy.run_path(str(path), run_name="__main__")
    assert finished.value.code == 1
    assert capsys.readouterr().out.startswith("mymodule.MaskBug::mask_value FAILED")


def test_the_script_runs_from_anywhere_on_a_real_loss(tmp_path: Path) -> None:
    (tmp_path / "mymodule.py").write_text("def mean_loss(input, target):\n    return (input - target).pow(2).mean()\n")
    path = written("mymodule.mean_loss", RunOptions(root=str(tmp_path), profile="quick"))
    script = path.rename(path.with_name("scalar_output.py"))
    script.write_text(script.read_text().replace("'mask_value'", "'scalar_output'"))
    done = subprocess.run([sys.executable, script], cwd="/", capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "FIXED mymodule.mean_loss::scalar_output\n", "")

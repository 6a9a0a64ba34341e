"""The console script: same engine, exit status 0, 1 or 4."""

import json
from pathlib import Path

import pytest

from loss_conformance.checks.registry import every_check
from loss_conformance.command import main

BROKEN = "def biased(input, target):\n    return input.detach().sum()\n"
SOUND = "def squared_error(input, target):\n    return (input - target).pow(2).mean()\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "losses.py").write_text(BROKEN + SOUND)
    return tmp_path


def test_a_sound_loss(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "losses.py:squared_error", "--profile", "quick"]) == 0
    assert capsys.readouterr().out.startswith("losses.py:squared_error: ")


def test_a_broken_loss_is_shown_and_can_be_replayed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "losses.py:biased", "--profile", "quick", "--report", "out"]) == 1
    out = capsys.readouterr().out
    assert "losses.py:biased::scalar_output FAILED\n" in out
    assert out.endswith(f"written: {folder / 'out'}\n")
    assert json.loads((folder / "out" / "report.json").read_text())["targets"][0]["counts"]["failed"] >= 1
    assert main(["replay", "out/scalar_output.py"]) == 1
    assert capsys.readouterr().out.startswith("losses.py:biased::scalar_output FAILED\n")


def test_a_blocked_selection_shows_its_cause(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "losses.py:biased", "--profile", "quick", "--only", "finite_value"]) == 1
    assert "losses.py:biased::scalar_output FAILED\n" in capsys.readouterr().out


def test_two_losses_are_compared(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "losses.py").write_text(SOUND + SOUND.replace("squared", "halved").replace("2)", "2).div(2)"))
    assert main(["compare", "losses.py:squared_error", "torch.nn.MSELoss"]) == 0
    assert main(["compare", "losses.py:halved_error", "torch.nn.MSELoss"]) == 1
    assert "halved_error::baseline_value FAILED" in capsys.readouterr().out


def test_the_table_of_checks(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(every_check()) + 1


def test_a_check_and_a_group_are_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "mask_value"]) == 0
    assert capsys.readouterr().out.startswith("mask_value\n  L(batch) must not change")
    assert main(["explain", "masking"]) == 0
    assert "mask_value\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["explain", "mask_valeu"], "ERROR: no check or group is named 'mask_valeu'; did you mean 'mask_value'?\n"),
        (["check", "losses.py:squared_error", "--only", "x"], "ERROR: no check or group is named 'x'\n"),
        (["check", "losses.py:Nope"], "ERROR: losses.py:Nope: "),
        (["replay", "mask_value"], "ERROR: there is no .loss-conformance/mask_value.py; replay one of: none, "),
    ],
)
def test_usage(folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    assert main(arguments) == 4
    captured = capsys.readouterr()
    assert captured.err.startswith(message)
    assert captured.out == ""


@pytest.mark.parametrize("arguments", [[], ["check"], ["nonsense"], ["check", "x", "--profile", "fast"]])
def test_malformed_arguments(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as finished:
        main(arguments)
    assert finished.value.code == 4
    assert "ERROR: " in capsys.readouterr().err

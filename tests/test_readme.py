from __future__ import annotations

import re

import pytest

from tests.update_readme import README, ROOT, generated, replaced


def test_generated_parts_are_current() -> None:
    text = README.read_text()
    assert replaced(text, generated()) == text, "run: python -m tests.update_readme"


def test_the_failing_example_is_the_file_in_examples() -> None:
    shown = re.search(r"```python\n(from loss_reference import Contract.*?)```", README.read_text(), re.DOTALL)
    assert shown is not None
    source = (ROOT / "examples" / "masked_mean_bug.py").read_text()
    assert shown[1] in source


@pytest.mark.parametrize("command", ["python -m pip install -c constraints.txt .", "python -m pip install tox && tox"])
def test_the_two_commands_stand_first(command: str) -> None:
    assert command in "\n".join(README.read_text().splitlines()[:8])


def test_the_loss_of_the_tutorial_is_conformant(tmp_path, monkeypatch) -> None:
    from loss_conformance import check_loss
    from loss_conformance.subject.load import load_subject

    shown = re.search(r"```python\n(import torch\n.*?class HingePreferenceLoss.*?)```", README.read_text(), re.DOTALL)
    assert shown is not None
    (tmp_path / "hinge_preference.py").write_text(shown[1])
    monkeypatch.chdir(tmp_path)
    subject = load_subject("hinge_preference.HingePreferenceLoss", root=tmp_path)
    report = check_loss(subject.loss)
    assert report.conformant, [v for v in report.verdicts if v.status.value in ("failed", "blocked")]

from pathlib import Path

import pytest

from loss_conformance.run_options import RunOptions
from tests.conformance.pytest_side import fake_engine


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunOptions:
    """Options of a run in an empty folder, with the fake engine."""
    fake_engine.install(monkeypatch.setattr)
    monkeypatch.chdir(tmp_path)
    return RunOptions(root=str(tmp_path))

from pathlib import Path

import pytest

from tests.conformance.pytest_side import fake_engine

PROJECT = Path(__file__).parents[3]


@pytest.fixture
def runner(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A pytest whose engine is the fake one."""
    fake_engine.install(monkeypatch.setattr)
    return pytester


@pytest.fixture
def worker_runner(runner: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """The same for runs whose workers are processes of their own."""
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))
    runner.makeconftest(
        """
        def pytest_configure(config):
            if hasattr(config, "workerinput"):
                from tests.conformance.pytest_side import fake_engine

                fake_engine.install()
        """
    )
    return runner

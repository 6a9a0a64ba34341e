"""What the tests of released losses share: import a library if it is there, run its losses, compare what failed."""

import importlib
import warnings
from typing import Any

import pytest
import torch

from loss_conformance import check_loss
from loss_conformance.verdict import Status


def library(*modules: str) -> None:
    """Import the modules, or skip the test file: most machines do not have them, some have builds that do not load."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in modules:
            try:
                importlib.import_module(name)
            except (ImportError, RuntimeError) as error:
                pytest.skip(f"{name}: {error}", allow_module_level=True)


def failed(loss: Any, config: dict[str, Any] | None = None) -> set[str]:
    """Return the names of the checks that failed; advice is not among them."""
    return _checks(loss, config, Status.FAILED)


def advised(loss: Any, config: dict[str, Any] | None = None) -> set[str]:
    """Return the names of the checks that gave advice."""
    return _checks(loss, config, Status.ADVICE)


def _checks(loss: Any, config: dict[str, Any] | None, status: Status) -> set[str]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        report = check_loss(loss, config=config, profile="quick", seed=0)
    finally:
        torch.set_num_threads(threads)
    assert report.having(Status.PASSED), f"nothing was tried on {loss}"
    return {verdict.check for verdict in report.having(status)}


def named(*losses: Any) -> Any:
    """Return the parametrisation over losses, each a name or (name, config)."""
    pairs = [loss if isinstance(loss, tuple) else (loss, None) for loss in losses]
    ids = [name if config is None else f"{name}-{'-'.join(map(str, config.values()))}" for name, config in pairs]
    return pytest.mark.parametrize(("name", "config"), pairs, ids=ids)


def broken(*losses: Any) -> Any:
    """Return the parametrisation over losses with a defect, each (name, failing checks) or (name, config, checks)."""
    triples = [loss if len(loss) == 3 else (loss[0], None, loss[1]) for loss in losses]
    ids = [f"{name}-{checks}" for name, _, checks in triples]
    return pytest.mark.parametrize(("name", "config", "checks"), triples, ids=ids)


def alarming(*losses: Any, reason: str) -> Any:
    """Return the parametrisation over sound losses that still fail; remove the entry when it passes."""
    pairs = [loss if isinstance(loss, tuple) else (loss, None) for loss in losses]
    found = [pytest.param(*pair, marks=pytest.mark.xfail(reason=reason), id=pair[0]) for pair in pairs]
    return pytest.mark.parametrize(("name", "config"), found)

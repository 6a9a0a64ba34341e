"""No false alarm: every loss of torch.nn that needs no argument passes without configuration."""

import inspect

import pytest
from torch import nn

from loss_conformance import check_loss
from loss_conformance.verdict import Status


def _needs_arguments(cls: type) -> bool:
    parameters = inspect.signature(cls).parameters.values()
    return any(p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters)


LOSSES = sorted(name for name in dir(nn) if name.endswith("Loss") and not _needs_arguments(getattr(nn, name)))


def test_every_one_is_found() -> None:
    assert len(LOSSES) == 21


@pytest.mark.parametrize("name", LOSSES)
def test_raises_no_alarm(name: str) -> None:
    report = check_loss(f"torch.nn.{name}", profile="quick", device="cpu")
    assert report.having(Status.FAILED) == ()
    assert report.having(Status.BLOCKED) == ()
    assert len(report.having(Status.PASSED)) >= 12


@pytest.mark.parametrize("name", ["CrossEntropyLoss", "NLLLoss"])
def test_the_documented_nan_of_an_empty_mean_is_part_of_the_contract(name: str) -> None:
    report = check_loss(f"torch.nn.{name}", profile="quick", device="cpu", checks=("empty_batch",))
    assert [verdict.status for verdict in report.verdicts] == [Status.PASSED]
    assert "empty = 'nan' (known of torch.nn." + name + ")" in report.facts

"""No false alarm: every reference loss passes its own suite."""

from functools import cache

import pytest

import loss_conformance.engine as engine_module
from loss_conformance import check_loss
from loss_conformance.engine import Engine
from loss_conformance.subject.load import load_subject
from loss_conformance.verdict import Report, Status
from tests.conformance.checks.every_reference import CONFIGS, LOSSES

# One of each way of putting terms together is tried at length.
AT_LENGTH = {"ContrastiveLoss", "DPOLoss", "ForwardKLLoss", "ReinforceLoss"}


# The plans follow from the seed alone.
same_pool = cache(engine_module.draw_pool)


def assert_passes(report: Report) -> None:
    assert [(v.check, v.failure) for v in report.having(Status.FAILED)] == []
    assert [(v.check, v.reason) for v in report.having(Status.BLOCKED)] == []
    assert len(report.having(Status.PASSED)) >= 20


@pytest.mark.parametrize("loss", [c for c in LOSSES if c.__name__ not in AT_LENGTH], ids=lambda cls: cls.__name__)
def test_passes_its_own_suite(loss: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "draw_pool", same_pool)
    subject = load_subject(loss, config=CONFIGS.get(loss.__name__))
    assert_passes(Engine(subject, profile="quick", device="cpu").report())


# The cases of the quick profile and seed 0 are among those of the standard one.
@pytest.mark.parametrize(("profile", "seed"), [("standard", 0), ("quick", 1)])
@pytest.mark.parametrize("loss", [c for c in LOSSES if c.__name__ in AT_LENGTH], ids=lambda cls: cls.__name__)
def test_passes_at_length(loss: type, profile: str, seed: int) -> None:
    assert_passes(check_loss(loss, config=CONFIGS.get(loss.__name__), profile=profile, seed=seed, device="cpu"))


def test_the_losses_tried_at_length_are_all_there() -> None:
    assert {cls.__name__ for cls in LOSSES} >= AT_LENGTH

"""No false alarm: every reference loss passes its own suite."""

import pytest

from loss_conformance import check_loss
from loss_conformance.verdict import Status
from loss_reference import registry

CONFIGS = {
    "ComposedLoss": {"loss_functions": [{"type": "dpo"}, {"type": "nll", "weight": 0.5}]},
    "DynamicWeightLoss": {"loss_functions": [{"type": "dpo"}, {"type": "nll"}], "base_weights": [1.0, 0.5]},
    "MultiObjectiveLoss": {"objectives": ["dpo", "sft"], "weights": [1.0, 0.5]},
}
# Several names may stand for one class, and other tests register losses of their own.
REGISTERED = {registry.get(name) for name in registry.names()}
LOSSES = sorted((c for c in REGISTERED if c.__module__.startswith("loss_reference.")), key=lambda cls: cls.__name__)
# The cases of ("quick", 0) are among those of ("standard", 0).
RUNS = [("standard", 0), ("quick", 1), ("quick", 2)]


@pytest.mark.parametrize(("profile", "seed"), RUNS)
@pytest.mark.parametrize("loss", LOSSES, ids=lambda cls: cls.__name__)
def test_passes_its_own_suite(loss: type, profile: str, seed: int) -> None:
    report = check_loss(loss, config=CONFIGS.get(loss.__name__), profile=profile, seed=seed, device="cpu")
    assert report.having(Status.FAILED) == ()
    assert report.having(Status.BLOCKED) == ()
    assert report.having(Status.EXPECTED_FAILURE) == ()
    assert len(report.having(Status.PASSED)) >= 20


def test_every_reference_loss_is_here() -> None:
    assert len(LOSSES) >= 16

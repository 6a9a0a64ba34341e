"""No false alarm: every reference loss passes its own suite."""

import pytest

from loss_conformance import check_loss
from loss_conformance.verdict import Status
from loss_reference import registry

CONFIGS = {
    "ComposedLoss": {"loss_functions": [{"type": "dpo"}, {"type": "nll", "weight": 0.5}]},
    "DynamicWeightLoss": {"loss_functions": [{"type": "dpo"}, {"type": "nll"}], "base_weights": [1.0, 0.5]},
    "MultiObjectiveLoss": {"objectives": ["dpo", "sft"], "weights": [1.0, 0.5]},
    "DrGRPOLoss": {"max_length": 16},
}
# Several names may stand for one class, and other tests register losses of their own.
REGISTERED = {registry.get(name) for name in registry.names()}
LOSSES = sorted((c for c in REGISTERED if c.__module__.startswith("loss_reference.")), key=lambda cls: cls.__name__)
# One or two of each kind are tried at length.
AT_LENGTH = {
    "AdaptiveLoss",
    "BradleyTerryLoss",
    "ComposedLoss",
    "ContrastiveLoss",
    "CustomDPOLoss",
    "DPOLoss",
    "DynamicWeightLoss",
    "ForwardKLLoss",
    "GRPOLoss",
    "InfoNCELoss",
    "MixedKLLoss",
    "MultiObjectiveLoss",
    "NLLLoss",
    "PPOClipLoss",
    "ReverseKLLoss",
    "ValueMSELoss",
}


def assert_passes(loss: type, profile: str, seed: int) -> None:
    report = check_loss(loss, config=CONFIGS.get(loss.__name__), profile=profile, seed=seed, device="cpu")
    assert [(v.check, v.failure) for v in report.having(Status.FAILED)] == []
    assert [(v.check, v.reason) for v in report.having(Status.BLOCKED)] == []
    assert len(report.having(Status.PASSED)) >= 20


@pytest.mark.parametrize("loss", [c for c in LOSSES if c.__name__ not in AT_LENGTH], ids=lambda cls: cls.__name__)
def test_passes_its_own_suite(loss: type) -> None:
    assert_passes(loss, "quick", 0)


# The cases of the quick profile and seed 0 are among those of the standard one.
@pytest.mark.parametrize(("profile", "seed"), [("standard", 0), ("quick", 1), ("quick", 2)])
@pytest.mark.parametrize("loss", [c for c in LOSSES if c.__name__ in AT_LENGTH], ids=lambda cls: cls.__name__)
def test_passes_at_length(loss: type, profile: str, seed: int) -> None:
    assert_passes(loss, profile, seed)


def test_the_losses_tried_at_length_are_all_there() -> None:
    assert {cls.__name__ for cls in LOSSES} >= AT_LENGTH

"""RPO with its NLL, and mixed preference optimisation."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from loss_reference import ConfigError, registry
from tests.reference.cases import Tensors, rows_of, value_and_gradient
from tests.reference.composite.helpers import gradient_of, usual, value_of

LOGPROB = "next_token_logprobs"


def pair(lp_w: list[float], lp_l: list[float]) -> tuple[Tensors, Tensors]:
    """One pair at policy = reference; what is masked is NaN."""
    width = max(len(lp_w), len(lp_l))
    rows = [[*row, *[math.nan] * (width - len(row))] for row in (lp_w, lp_l)]
    lp = torch.tensor(rows, dtype=torch.float64)
    blank = torch.full((2, 1), math.nan, dtype=torch.float64)
    mask = torch.cat([torch.zeros(2, 1), (~lp.isnan()).float()], dim=1)
    return {"token_mask": mask, "reference_policy_logprobs": torch.cat([blank, lp], dim=1)}, {LOGPROB: lp}


W, L = [-1.0, -2.0, -0.6], [-3.0]
NLL = 3.6 / 3


@pytest.mark.parametrize(
    ("name", "config", "by_hand"),
    [
        ("rpo_nll", {}, math.log(2) + NLL),
        ("rpo_nll", {"alpha": 0.25, "beta": 3.0}, math.log(2) + 0.25 * NLL),
        ("mpo", {}, 0.8 * math.log(2) + 0.2 * 2 * math.log(2) + NLL),
        ("mpo", {"preference_weight": 0.0, "quality_weight": 0.5, "generation_weight": 2.0}, math.log(2) + 2 * NLL),
        ("mpo", {"nll_average": "tokens"}, 1.2 * math.log(2) + NLL),
    ],
)
def test_at_the_reference(name: str, config: dict[str, Any], by_hand: float) -> None:
    assert value_and_gradient(registry.create(name, config), *pair(W, L), LOGPROB)[0].item() == pytest.approx(by_hand)


@pytest.mark.parametrize("sample_mask", [None, "zeros", "floats"])
def test_rpo_is_dpo_with_its_component(sample_mask: str | None) -> None:
    batch, outputs = usual(1, sample_mask=sample_mask, counts=True)
    for alpha in (0.0, 0.7):
        loss = registry.create("rpo_nll", {"alpha": alpha, "beta": 0.4})
        custom = registry.create("custom", {"custom_weight": alpha, "beta": 0.4})
        torch.testing.assert_close(value_of(loss, batch, outputs), value_of(custom, batch, outputs))
        torch.testing.assert_close(gradient_of(loss, batch, outputs), gradient_of(custom, batch, outputs))


@pytest.mark.parametrize("sample_mask", [None, "zeros", "floats"])
def test_mpo_is_its_weighted_parts(sample_mask: str | None) -> None:
    batch, outputs = usual(2, sample_mask=sample_mask, counts=True)
    weights = {"preference_weight": 0.3, "quality_weight": 1.7, "generation_weight": 0.9}
    loss = registry.create("mpo", {**weights, "beta": 0.5})
    rpo, dpo, bco = (
        registry.create(name, {"beta": 0.5, **more}) for name, more in (("rpo_nll", {"alpha": 1.0}), ("dpo", {}), ("bco_pair", {}))
    )  # fmt: skip
    for of in (value_of, gradient_of):
        parts = [of(x, batch, outputs) for x in (dpo, bco, rpo)]
        expected = (0.3 - 0.9) * parts[0] + 1.7 * parts[1] + 0.9 * parts[2]
        torch.testing.assert_close(of(loss, batch, outputs), expected)


def test_token_average_weighs_every_chosen_token_alike() -> None:
    one, two = pair(W, L), pair([-5.0], L)
    padded = torch.cat([two[1][LOGPROB], torch.full((2, 2), math.nan)], dim=1)
    batch = {
        "token_mask": torch.cat([one[0]["token_mask"], torch.cat([two[0]["token_mask"], torch.zeros(2, 2)], dim=1)]),
        "reference_policy_logprobs": torch.cat([torch.zeros(4, 1), torch.cat([one[1][LOGPROB], padded])], dim=1),
    }
    outputs = {LOGPROB: torch.cat([one[1][LOGPROB], padded])}
    nothing_else = {"preference_weight": 0.0, "quality_weight": 0.0}
    for average, expected in (("sequence", (NLL + 5) / 2), ("tokens", (3.6 + 5) / 4)):
        loss = registry.create("mpo", {**nothing_else, "nll_average": average})
        value, gradient = value_and_gradient(loss, batch, outputs, LOGPROB)
        assert value.item() == pytest.approx(expected)
        assert gradient[1::2].abs().sum() == 0
    assert registry.create("mpo", {"nll_average": "tokens"}).contract.normalizer == "local"


@pytest.mark.parametrize(("name", "config"), [("rpo_nll", {}), ("mpo", {}), ("mpo", {"nll_average": "tokens"})])
def test_masks_pairs_and_layout(name: str, config: dict[str, Any]) -> None:
    batch, outputs = usual(3, sample_mask="floats")
    loss = registry.create(name, config)
    value, gradient = value_and_gradient(loss, batch, outputs, LOGPROB)
    absent = (batch["token_mask"][:, 1:] * batch["sample_mask"][:, None]) == 0
    absent |= torch.tensor([0, 0, 1, 1], dtype=torch.bool)[:, None]  # row 2 weighs 0, so its pair does
    bad = {LOGPROB: outputs[LOGPROB].masked_fill(absent, math.nan)}
    got = value_and_gradient(loss, batch, bad, LOGPROB)
    assert torch.equal(got[0], value)
    assert torch.equal(got[1], gradient)
    assert gradient[absent].abs().sum() == 0
    halves = registry.create(name, {**config, "pair_layout": "halves"})
    order = torch.tensor([0, 2, 1, 3])
    swapped = {field: x[order] if x.dim() and "pairs" not in field else x for field, x in batch.items()}
    moved = value_and_gradient(halves, swapped, {LOGPROB: outputs[LOGPROB][order]}, LOGPROB)[0]
    torch.testing.assert_close(moved, value)


@pytest.mark.parametrize("name", ["rpo_nll", "mpo"])
def test_microbatches_add_up_and_nothing_is_zero(name: str) -> None:
    batch, outputs = usual(4, rows=6, sample_mask="floats", counts=True)
    loss = registry.create(name)
    parts = [value_of(loss, rows_of(batch, a, b), rows_of(outputs, a, b)) for a, b in ((0, 2), (2, 6))]
    torch.testing.assert_close(parts[0] + parts[1], value_of(loss, batch, outputs))
    nothing = batch | {"sample_mask": torch.zeros(6)}
    assert value_of(loss, nothing, outputs).item() == 0
    assert gradient_of(loss, nothing, outputs).abs().sum() == 0


@pytest.mark.parametrize("name", ["rpo_nll", "mpo"])
def test_large_log_ratios_stay_finite_in_float32(name: str) -> None:
    batch, outputs = usual(5, dtype=torch.float32)
    for scale in (1e3, -1e3):
        batch["reference_policy_logprobs"] = scale * torch.rand(4, 6)
        value, gradient = value_and_gradient(name, batch, outputs, LOGPROB)
        assert math.isfinite(value)
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("rpo_nll", {"alpha": -1}, "RPONLLLoss: alpha=-1 is out of range; expected a number at least 0"),
        ("mpo", {"quality_weight": -0.1}, "MPOLoss: quality_weight=-0.1 is out of range"),
        (
            "mpo",
            {"nll_average": "token"},
            "MPOLoss: nll_average='token'; expected one of 'sequence', 'tokens', 'sum'; did you mean",
        ),
        ("mpo", {"objectives": ["dpo"]}, "MPOLoss: unknown config key 'objectives'"),
    ],
)
def test_config_errors(name: str, config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        registry.create(name, config)

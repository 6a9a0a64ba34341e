"""The corrections of the generating policy: weights by hand, and the losses they multiply."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from loss_reference import ConfigError, GSPOLoss, PPOClipLoss, registry
from loss_reference.policy_gradient.correction import mean_one, tis_weight
from tests.reference.cases import Tensors, value_and_gradient
from tests.reference.policy_gradient.further import CORRECTED, FIELD, WEIGHTED, further_case

# Ratios pi_old / pi_gen of two rows: sums of logs log 1.5 and log 2.8, geometric means sqrt 1.5 and sqrt 2.8.
RATIOS = [[3.0, 0.5], [1.4, 2.0]]
W: dict[str, list[tuple[dict[str, Any], list[list[float]]]]] = {
    "tis": [
        ({}, [[2, 0.5], [1.4, 2]]),
        ({"is_min": 0.6, "is_max": 1.4}, [[1.4, 0.6], [1.4, 1.4]]),
        ({"is_max": 5.0}, RATIOS),
    ],
    "icepop": [({}, [[0, 0.5], [1.4, 2]]), ({"is_min": 0.6, "is_max": 5.0}, [[3, 0], [1.4, 2]])],
    "seq_truncate": [({}, [[1.5, 1.5], [2.8, 2.8]]), ({"is_max": 2.0}, [[1.5, 1.5], [2, 2]])],
    "seq_mask": [
        ({}, [[1.5, 1.5], [2.8, 2.8]]),
        ({"is_max": 2.0}, [[1.5, 1.5], [0, 0]]),
        ({"is_min": 1.6}, [[0, 0], [2.8, 2.8]]),
    ],
    "seq_mask_tis": [
        ({}, RATIOS),
        ({"is_max": 1.6}, [[3, 0.5], [0, 0]]),
        ({"is_min": 1.3, "is_max": 2.0}, [[0, 0], [1.4, 2]]),
    ],
    "divergence_mask": [
        ({}, [[0, 1], [1, 1]]),  # within [1/2, 2], bounds included
        ({"lower": 0.9, "upper": 2.5}, [[0, 0], [1, 1]]),
        ({"level": "seq_mean", "upper": 1.5}, [[1, 1], [0, 0]]),
        ({"level": "seq_sum"}, [[1, 1], [0, 0]]),
        ({"estimator": "k2", "upper": 0.25}, [[0, 1], [1, 1]]),  # .603 .240 / .057 .240
        ({"estimator": "k2", "level": "seq_mean", "upper": 0.15}, [[0, 0], [1, 1]]),
        ({"estimator": "k2", "level": "seq_sum", "upper": 0.28}, [[0, 0], [0, 0]]),
        ({"estimator": "k2", "level": "seq_max", "upper": 0.28}, [[0, 0], [1, 1]]),
        ({"estimator": "k3", "upper": 0.2}, [[0, 1], [1, 0]]),  # .901 .193 / .064 .307
        ({"estimator": "k3", "level": "seq_max", "upper": 0.31}, [[0, 0], [1, 1]]),
        ({"estimator": "k3", "level": "seq_sum", "upper": 0.36}, [[0, 0], [0, 0]]),
    ],
}
RUNS = [(name, config, weights) for name, cases in W.items() for config, weights in cases]


def one_case(ratios: list[list[float]], advantages: list[list[float]]) -> tuple[Tensors, Tensors]:
    """Return rows on policy, lp = lp_old, of tokens that another policy generated."""
    lp = torch.full((2, 2), -0.9, dtype=torch.float64)
    nan = torch.full((2, 1), math.nan, dtype=torch.float64)
    batch = {
        "token_mask": torch.ones(2, 3),
        "prev_logprobs": torch.cat([nan, lp], dim=1),
        "generation_logprobs": torch.cat([nan, lp - torch.tensor(ratios, dtype=torch.float64).log()], dim=1),
        "advantages": torch.cat([nan, torch.tensor(advantages, dtype=torch.float64)], dim=1),
    }
    return batch, {FIELD: lp}


@pytest.mark.parametrize(("name", "config", "weights"), RUNS)
def test_weights_by_hand(name: str, config: dict[str, Any], weights: list[list[float]]) -> None:
    """On policy the gradient is -W A / 4, whatever W leaves out: the divisor stays."""
    batch, outputs = one_case(RATIOS, [[1, 2], [-1, 4]])
    expected = -torch.tensor(weights, dtype=torch.float64) * batch["advantages"][:, 1:] / 4
    value, gradient = value_and_gradient(registry.create(name, config), batch, outputs, FIELD)
    torch.testing.assert_close(gradient, expected)
    torch.testing.assert_close(value, expected.sum())


@pytest.mark.parametrize(("threshold", "row_kept"), [(0.0, (False, True)), (0.2, (False, True)), (0.21, (True, True))])
def test_off_policy_mask_by_hand(threshold: float, row_kept: tuple[bool, bool]) -> None:
    """Mean drifts lp_gen - lp: log 1.5 / 2 = 0.2027 and -log 2.8 / 2. Only negative advantages are dropped."""
    batch, outputs = one_case([[1 / 3, 2.0], [1.4, 2.0]], [[1, -2], [-1, 4]])
    _, gradient = value_and_gradient(
        registry.create("off_policy_mask", {"threshold": threshold}), batch, outputs, FIELD
    )
    kept = torch.tensor([[True, row_kept[0]], [row_kept[1], True]])
    torch.testing.assert_close(gradient, -batch["advantages"][:, 1:] * kept / 4)


def test_off_policy_mask_looks_at_the_trained_policy() -> None:
    batch, outputs = one_case([[1.0, 1.0], [1.0, 1.0]], [[-1, -1], [-1, -1]])
    outputs[FIELD] = outputs[FIELD] - torch.tensor([[0.15, 0.15], [0.0, 0.0]], dtype=torch.float64)
    _, gradient = value_and_gradient(registry.create("off_policy_mask"), batch, outputs, FIELD)
    assert (gradient != 0).tolist() == [[False, False], [True, True]]


@pytest.mark.parametrize("name", CORRECTED)
def test_where_both_policies_agree_it_is_ppo(name: str) -> None:
    batch, outputs = further_case(1, sample_mask="floats", counts=True)
    batch["generation_logprobs"] = batch["prev_logprobs"]
    if name == "off_policy_mask":
        batch["generation_logprobs"] = torch.cat([batch["prev_logprobs"][:, :1], outputs[FIELD]], dim=1)
    for aggregation in ("token_mean", "seq_mean_token_mean"):
        losses = registry.create(name, {"aggregation": aggregation}), PPOClipLoss({"aggregation": aggregation})
        got, expected = (value_and_gradient(loss, batch, outputs, FIELD) for loss in losses)
        torch.testing.assert_close(got[0], expected[0])
        torch.testing.assert_close(got[1], expected[1])


@pytest.mark.parametrize("name", CORRECTED)
def test_the_ratio_of_the_sequence_is_that_of_gspo(name: str) -> None:
    batch, outputs = further_case(2, sample_mask="floats")
    batch["generation_logprobs"] = batch["prev_logprobs"]
    if name == "off_policy_mask":
        batch["generation_logprobs"] = batch["prev_logprobs"] - 100
    clips = {"ratio_clip_min": 0.1, "ratio_clip_max": 0.2, "aggregation": "seq_mean_token_mean"}
    losses = registry.create(name, clips | {"ratio_level": "sequence"}), GSPOLoss(clips)
    got, expected = (value_and_gradient(loss, batch, outputs, FIELD) for loss in losses)
    torch.testing.assert_close(got[0], expected[0])
    torch.testing.assert_close(got[1], expected[1])


def test_overflow() -> None:
    x = torch.tensor([88.0, 89.0, 1e4, math.inf], dtype=torch.float64)
    assert tis_weight(x, 0.1, 2.0).tolist() == [2, 2, 2, 2]
    assert tis_weight(x, 0.1, 2.0, "zero").tolist() == [2, 0.1, 0.1, 0.1]
    batch, outputs = one_case([[1.0, 1.0], [1.0, 1.0]], [[1, 1], [1, 1]])
    batch["generation_logprobs"][0, 1] = -math.inf  # the generator could not have drawn it
    for overflow, expected in (("saturate", 2.0), ("zero", 0.0)):
        _, gradient = value_and_gradient(registry.create("tis", {"overflow": overflow}), batch, outputs, FIELD)
        assert gradient[0].tolist() == pytest.approx([-expected / 4, -0.25])


def test_a_weight_that_is_no_number_is_0_in_nemo_rl() -> None:
    """Both policies find the token impossible: inf - inf. It counts as 0, like one that overflows."""
    batch, outputs = further_case(5, sample_mask=None)
    batch["token_mask"][1, 2] = 1.0
    left_out = batch | {"token_mask": batch["token_mask"].clone()}
    left_out["token_mask"][1, 2] = 0.0
    for field in ("prev_logprobs", "generation_logprobs"):
        batch[field] = batch[field].clone()
        batch[field][1, 2] = -math.inf
    count: dict[str, Tensor] = {"global_valid_toks": batch["token_mask"][:, 1:].sum()}
    loss = registry.create("tis", {"overflow": "zero"})
    got, expected = (value_and_gradient(loss, part | count, outputs, FIELD) for part in (batch, left_out))
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("name", WEIGHTED)
def test_weights_of_mean_one(name: str) -> None:
    """On policy, all advantages -1: the loss is the mean of W, over tokens or, by rows, over rows."""
    batch, outputs = one_case(RATIOS, [[-1, -1], [-1, -1]])
    batch["token_mask"][0, 2] = 0.0
    by_row = name in ("seq_truncate", "seq_mask")
    config = {"batch_normalize": True, "is_max": 4.0, "aggregation": "seq_mean_token_mean" if by_row else "token_mean"}
    value, _ = value_and_gradient(registry.create(name, config), batch, outputs, FIELD)
    plain, _ = value_and_gradient(registry.create(name, config | {"batch_normalize": False}), batch, outputs, FIELD)
    assert value.item() == pytest.approx(1.0)
    assert plain.item() != pytest.approx(1.0, rel=0.1)
    assert registry.create(name, config).contract.coupled
    assert not registry.create(name).contract.coupled


def test_a_mean_that_is_not_there_divides_nothing() -> None:
    W = torch.tensor([[0.0, 1e-9, 0.0]])
    assert torch.equal(mean_one(W, torch.ones(1, 3)), W)
    assert torch.equal(mean_one(W + 1, torch.zeros(1, 3)), W + 1)


@pytest.mark.parametrize("name", CORRECTED)
def test_length_matters_where_logs_are_summed(name: str) -> None:
    assert registry.create(name).contract.length_normalized == (name not in ("seq_truncate", "seq_mask"))
    by_row: Tensor | bool | None = registry.create(
        name, {"aggregation": "seq_mean_token_mean"}
    ).contract.length_normalized
    assert by_row == (name not in ("seq_truncate", "seq_mask"))
    assert not registry.create("divergence_mask", {"level": "seq_sum"}).contract.length_normalized


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("tis", {"is_min": 3}, "TISLoss: is_min=3 is above is_max=2.0"),
        ("icepop", {"is_max": 0.4}, "IcePopLoss: is_min=0.5 is above is_max=0.4"),
        ("tis", {"overflow": "inf"}, "TISLoss: overflow='inf'; expected one of 'saturate', 'zero'"),
        ("seq_truncate", {"is_min": 0.5}, "SequenceTruncateLoss: unknown config key 'is_min'"),
        ("off_policy_mask", {"threshold": -1}, "OffPolicyMaskLoss: threshold=-1 is out of range"),
        ("divergence_mask", {"level": "seq_max"}, "DivergenceMaskLoss: level='seq_max' needs estimator='k2' or 'k3'"),
        ("divergence_mask", {"upper": 0.9}, "DivergenceMaskLoss: lower=1.1111"),
        (
            "divergence_mask",
            {"estimator": "k3", "lower": 0.5},
            "DivergenceMaskLoss: lower=0.5 has no effect beside estimator='k3'; it is read where estimator is 'k1'",
        ),
    ],
)
def test_config_errors(name: str, config: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        registry.create(name, config)
    assert str(error.value).startswith(message)

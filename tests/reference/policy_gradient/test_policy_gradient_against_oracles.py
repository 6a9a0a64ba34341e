"""Every policy-gradient loss, and the clipped value loss, against a float64 loop written by somebody else."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.oracles import policy_gradient_sequences as sequences
from tests.oracles import policy_gradient_tokens as tokens
from tests.oracles import value_clipping
from tests.reference.cases import Tensors, value_and_gradient
from tests.reference.policy_gradient.helpers import POLICY, SURROGATES, cases, create, trains
from tests.reference.test_against_oracles import AGGREGATIONS, Config, Oracle, arrays, difference_gradient

SEQUENCE_CLIPS: list[Config] = [
    {"ratio_clip_min": 0.1, "ratio_clip_max": 0.1},
    {"ratio_clip_min": 0.0, "ratio_clip_max": 0.0},
    {"ratio_clip_min": 1.0, "ratio_clip_max": 5.0},
]
CLIPS: list[Config] = [*SEQUENCE_CLIPS, {"ratio_clip_min": 0.3, "ratio_clip_max": 0.1}]
ORACLES: dict[str, tuple[Oracle, list[Config]]] = {
    "ppo_dual_clip": (tokens.dual_clip, [*AGGREGATIONS, *CLIPS, {"ratio_clip_c": 1.2}]),
    "dapo": (tokens.dapo, CLIPS),
    "dr_grpo": (tokens.dr_grpo, [*CLIPS, {"max_length": 3.0}]),
    "bnpo": (tokens.bnpo, CLIPS),
    "reinforce": (tokens.reinforce, AGGREGATIONS),
    "on_policy": (tokens.on_policy, AGGREGATIONS),
    "cispo": (tokens.cispo, CLIPS),
    "sapo": (tokens.sapo, [{"tau_pos": 0.5}, {"tau_neg": 3.0}]),
    "gspo": (sequences.gspo, SEQUENCE_CLIPS),
    "gspo_token": (sequences.gspo_token, SEQUENCE_CLIPS),
    "luspo": (sequences.luspo, SEQUENCE_CLIPS),
    "vespo": (
        sequences.vespo,
        [{"k_pos": 0.5, "lambda_neg": 1.0}, {"k_neg": 1.0, "lambda_pos": 0.0}, {"k_pos": 0.7, "k_neg": 0.3}],
    ),
    "gmpo": (
        lambda batch, outputs, ratio_clip_min=0.4, ratio_clip_max=0.4, divisor="sequences": sequences.gmpo(
            batch, outputs, clip_low=ratio_clip_min, clip_high=ratio_clip_max, divisor=divisor
        ),
        [*CLIPS, {"divisor": "rows"}, {"divisor": "rows", **CLIPS[0]}],
    ),
    "value_clipped": (value_clipping.value_clipped, [{"value_clip": 1.0}, {"scale": 0.3}]),
}
GRADIENTS: dict[str, Any] = {
    "on_policy": tokens.on_policy_gradient,
    "cispo": tokens.cispo_gradient,
    "gspo_token": sequences.gspo_token_gradient,
    "vespo": sequences.vespo_gradient,
    "sapo": tokens.sapo_gradient,
}
RUNS = [(name, config) for name, (_, configs) in ORACLES.items() for config in [{}, *configs]]


def test_every_loss_has_an_oracle() -> None:
    assert set(ORACLES) == {*POLICY, "value_clipped"}
    assert set(GRADIENTS) >= SURROGATES


def assert_agrees(name: str, config: Config, batch: Tensors, outputs: Tensors, gradient: bool = True) -> None:
    oracle, field = ORACLES[name][0], trains(name, outputs)
    loss = create(name, **config)
    config = loss.config
    got, got_gradient = value_and_gradient(loss, batch, outputs, field)
    expected = oracle(arrays(batch), arrays(outputs), **config)
    assert got.item() == pytest.approx(expected, rel=1e-10, abs=1e-14)
    if gradient and name in GRADIENTS:
        by_hand = torch.from_numpy(GRADIENTS[name](arrays(batch), arrays(outputs), **config))
        torch.testing.assert_close(got_gradient, by_hand, rtol=1e-10, atol=1e-14)
    if gradient and name not in SURROGATES:
        by_difference = difference_gradient(oracle, arrays(batch), arrays(outputs), field, config)
        torch.testing.assert_close(got_gradient, by_difference, rtol=1e-7, atol=2e-9)


@pytest.mark.parametrize("counts", [False, True], ids=["local", "global"])
@pytest.mark.parametrize("sample_mask", [None, "zeros", "floats"])
@pytest.mark.parametrize(("name", "config"), RUNS)
def test_value_and_gradient(name: str, config: Config, sample_mask: str | None, counts: bool) -> None:
    for close in (True, False):
        batch, outputs = cases(17, close, sample_mask=sample_mask, counts=counts, width=5)
        assert_agrees(name, config, batch, outputs)


@pytest.mark.parametrize("name", ORACLES)
def test_value_on_many_cases(name: str) -> None:
    for seed in range(8):
        batch, outputs = cases(100 + seed, seed % 2 == 0, rows=6, width=8, sample_mask="floats")
        assert_agrees(name, {}, batch, outputs, gradient=False)
    batch, outputs = cases(130, source="logits", sample_mask="floats")
    assert_agrees(name, {}, batch, outputs, gradient=False)


@pytest.mark.parametrize("name", ORACLES)
def test_nothing_left(name: str) -> None:
    batch, outputs = cases(37)
    batch["sample_mask"] = torch.zeros(4, dtype=torch.float64)
    assert_agrees(name, {}, batch, outputs)

"""Every reference loss against an oracle: a plain float64 loop written from the same formula by somebody else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from loss_reference import registry
from tests.oracles import contrastive, distillation, policy_gradient, preference, reward, supervised, value
from tests.reference.cases import READS_LOGPROBS, Tensors, case, trainable, value_and_gradient

Oracle = Callable[..., float]
Config = dict[str, Any]

AGGREGATIONS: list[Config] = [
    {"aggregation": "token_mean"},
    {"aggregation": "seq_mean_token_mean"},
    {"aggregation": "seq_mean_token_sum"},
    {"aggregation": "fixed", "max_length": 7.0},
]
CLIPS: list[Config] = [
    {"ratio_clip_min": 0.1, "ratio_clip_max": 0.4},
    {"ratio_clip_min": 0.0, "ratio_clip_max": 0.0},
    {"ratio_clip_min": 1.0, "ratio_clip_max": 5.0},
    {"ratio_clip_c": 1.5},
]
CROSS_ENTROPY: Config = {"mixed_kl_weight": 0.3, "forward_part": "cross_entropy"}
ORACLES: dict[str, tuple[Oracle, list[Config]]] = {
    "nll": (supervised.nll, AGGREGATIONS),
    "dpo": (
        preference.dpo,
        [{"beta": 1.0}, {"label_smoothing": 0.2}, {"average_log_probs": True, "beta": 2.0}],
    ),
    "ppo_clip": (policy_gradient.ppo_clip, AGGREGATIONS + CLIPS),
    "grpo": (
        policy_gradient.grpo,
        [
            *AGGREGATIONS,
            *CLIPS,
            {"reference_policy_kl_penalty": 0.0},
            *({"reference_policy_kl_penalty": 0.7, "kl_type": kl_type} for kl_type in ("k1", "k2", "k3", "abs")),
        ],
    ),
    "value_mse": (value.value_mse, [{"scale": 0.3}]),
    "bradley_terry": (reward.bradley_terry, []),
    "forward_kl": (distillation.forward_kl, [{"temperature": 0.5}]),
    "reverse_kl": (distillation.reverse_kl, [{"temperature": 2.0}]),
    "mixed_kl": (
        distillation.mixed_kl,
        [
            {"mixed_kl_weight": 0.0},
            {"mixed_kl_weight": 1.0},
            {"mixed_kl_weight": 0.3, "temperature": 2.0},
            CROSS_ENTROPY,
        ],
    ),
    "pairwise_contrastive": (contrastive.pairwise_contrastive, [{"temperature": 1.0}]),
    "infonce": (contrastive.infonce, [{"temperature": 1.0}]),
}
RUNS = [(name, config) for name, (_, configs) in ORACLES.items() for config in [{}, *configs]]
Arrays = dict[str, NDArray[Any]]


def arrays(tensors: Mapping[str, Tensor]) -> Arrays:
    return {name: x.detach().numpy().copy() for name, x in tensors.items()}


def difference_gradient(oracle: Oracle, batch: Arrays, outputs: Arrays, field: str, config: Config) -> Tensor:
    """Return central finite differences of the oracle; the random cases lie away from its kinks."""
    x, step = outputs[field], 1e-5
    gradient = np.zeros_like(x)
    for index in np.ndindex(*x.shape):
        sides = []
        for sign in (+1, -1):
            moved = x.copy()
            moved[index] += sign * step
            sides.append(oracle(batch, outputs | {field: moved}, **config))
        gradient[index] = (sides[0] - sides[1]) / (2 * step)
    return torch.from_numpy(gradient)


def assert_agrees(name: str, config: Config, batch: Tensors, outputs: Tensors, gradient: bool = True) -> None:
    oracle, field = ORACLES[name][0], trainable(name, outputs)
    got, got_gradient = value_and_gradient(registry.create(name, config), batch, outputs, field)
    expected = oracle(arrays(batch), arrays(outputs), **config)
    assert got.item() == pytest.approx(expected, rel=1e-10, abs=1e-14)
    if gradient:
        by_difference = difference_gradient(oracle, arrays(batch), arrays(outputs), field, config)
        torch.testing.assert_close(got_gradient, by_difference, rtol=1e-7, atol=2e-9)


def sources(name: str) -> list[str]:
    if name in READS_LOGPROBS:
        return ["next_token_logprobs", "logits"]
    return ["logits"]


@pytest.mark.parametrize(
    ("sample_mask", "counts"),
    [(None, False), ("zeros", True), ("floats", False), ("floats", True)],
    ids=["none-local", "zeros-global", "floats-local", "floats-global"],
)
@pytest.mark.parametrize(("name", "config"), RUNS)
def test_value_and_gradient(name: str, config: Config, sample_mask: str | None, counts: bool) -> None:
    for source in sources(name):
        batch, outputs = case(17, sample_mask=sample_mask, counts=counts, source=source, width=5, vocabulary=4)
        assert_agrees(name, config, batch, outputs, gradient=source == sources(name)[0])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", ORACLES)
def test_value_on_many_cases(name: str, seed: int) -> None:
    for source in sources(name):
        batch, outputs = case(100 + seed, rows=6, width=8, sample_mask="floats", source=source)
        assert_agrees(name, {}, batch, outputs, gradient=False)


@pytest.mark.parametrize("name", READS_LOGPROBS)
def test_gradient_of_the_logits(name: str) -> None:
    batch, outputs = case(23, source="logits", width=4, vocabulary=3, sample_mask="floats")
    assert_agrees(name, {}, batch, outputs)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("sample_mask", [None, "zeros", "floats"])
@pytest.mark.parametrize("name", ["forward_kl", "reverse_kl", "mixed_kl"])
def test_topk_teacher(name: str, sample_mask: str | None, temperature: float) -> None:
    batch, outputs = case(29, source="logits", sample_mask=sample_mask, width=5)
    del batch["teacher_logits"]
    assert_agrees(name, {"temperature": temperature}, batch, outputs)


@pytest.mark.parametrize("name", ["forward_kl", "reverse_kl", "mixed_kl"])
def test_impossible_tokens(name: str) -> None:
    batch, outputs = case(31, source="logits")
    batch["teacher_logits"][..., 1] = -torch.inf
    outputs["logits"][..., 1] = -torch.inf
    assert_agrees(name, {}, batch, outputs, gradient=False)


@pytest.mark.parametrize("name", ORACLES)
def test_nothing_left(name: str) -> None:
    batch, outputs = case(37, source=sources(name)[0])
    batch["sample_mask"] = torch.zeros(4, dtype=torch.float64)
    assert_agrees(name, {}, batch, outputs)

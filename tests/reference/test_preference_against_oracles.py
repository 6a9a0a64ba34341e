"""Every preference loss against an oracle: a plain float64 loop written from the same formula by somebody else."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from loss_reference import registry
from tests.oracles import (
    preference_absolute,
    preference_divergences,
    preference_pairs,
    preference_rewards,
    preference_sets,
    preference_without_reference,
)
from tests.reference.cases import Tensors, case, value_and_gradient
from tests.reference.test_against_oracles import Config, Oracle, arrays, difference_gradient

BETA: list[Config] = [{"beta": 1.0}]
SMOOTHING: list[Config] = [*BETA, {"label_smoothing": 0.3}]
AVERAGES: list[Config] = [{"nll_average": "tokens"}, {"nll_average": "sum"}]
SHAPES: list[Config] = [{"loss_type": shape, "beta": 0.7} for shape in ("hinge", "ipo")]
MARGINS: list[Config] = [*BETA, {"beta": 0.5, "eta": 2.0}]
ORACLES: dict[str, tuple[Oracle, list[Config]]] = {
    "cdpo": (preference_pairs.cdpo, [*SMOOTHING, {"label_smoothing": 0.0}, {"label_smoothing": 0.5}]),
    "robust_dpo": (preference_pairs.robust_dpo, [*SMOOTHING, {"label_smoothing": 0.0}]),
    "hinge_dpo": (preference_pairs.hinge_dpo, BETA),
    "ipo": (preference_pairs.ipo, [*BETA, {"average_log_probs": True}]),
    "dpo_norm": (preference_pairs.dpo_norm, BETA),
    "fdpo_forward_kl": (preference_divergences.fdpo_forward_kl, BETA),
    "fdpo_js": (preference_divergences.fdpo_js, BETA),
    "fdpo_alpha": (preference_divergences.fdpo_alpha, [*BETA, {"alpha": 0.0}, {"alpha": 0.9}, {"alpha": 1.0}]),
    "exo_pair": (preference_pairs.exo_pair, [*SMOOTHING, {"label_smoothing": 0.5}]),
    "nca_pair": (preference_absolute.nca_pair, BETA),
    "bco_pair": (preference_absolute.bco_pair, BETA),
    "sppo_hard": (preference_absolute.sppo_hard, BETA),
    "apo_zero": (preference_absolute.apo_zero, BETA),
    "apo_down": (preference_absolute.apo_down, BETA),
    "discopop": (preference_pairs.discopop, [*BETA, {"tau": 1.0}, {"tau": 0.01, "beta": 2.0}]),
    "ld_dpo": (preference_pairs.ld_dpo, [*BETA, {"alpha": 0.0}, {"alpha": 1.0}]),
    "dpop": (preference_absolute.dpop, [*BETA, {"lambda_": 0.0}, {"lambda_": 2.0}]),
    "r_dpo": (preference_pairs.r_dpo, [*BETA, {"alpha": 0.0}, {"alpha": 1.0}]),
    "cal_dpo": (preference_absolute.cal_dpo, BETA),
    "orpo": (
        preference_without_reference.orpo,
        [*BETA, {"nll_span": "full"}, *AVERAGES, {"nll_span": "full", **AVERAGES[0]}],
    ),
    "cpo": (preference_without_reference.cpo, [*SMOOTHING, {"alpha": 0.0}, {"alpha": 3.0}, *AVERAGES, *SHAPES]),
    "simpo": (
        preference_without_reference.simpo,
        [*SMOOTHING, {"gamma": 0.0}, {"gamma": 2.0}, *({"nll_weight": 0.7, **average} for average in ({}, *AVERAGES))],
    ),
    "alphapo": (
        preference_without_reference.alphapo,
        [*BETA, {"gamma": 2.0}, {"alpha": 0.0}, {"alpha": 2.0}, {"alpha": -0.5}],
    ),
    "slic_hf": (preference_without_reference.slic_hf, [{"delta": 0.1}, {"delta": 10.0}]),
    "rpo_sq": (preference_rewards.rpo_sq, MARGINS),
    "rpo_fwd_kl": (preference_rewards.rpo_fwd_kl, MARGINS),
    "rpo_bwd_kl": (preference_rewards.rpo_bwd_kl, MARGINS),
    "rebel": (preference_rewards.rebel, [{"eta": 3.0}]),
    "odpo": (preference_rewards.odpo, [*BETA, {"alpha": 0.0}, {"alpha": 3.0}]),
    "aot": (preference_sets.aot, SMOOTHING),
    "aot_unpaired": (preference_sets.aot_unpaired, SMOOTHING),
}
RUNS = [(name, config) for name, (_, configs) in ORACLES.items() for config in [{}, *configs]]


def rewarded_case(seed: int, **kwargs: Any) -> tuple[Tensors, Tensors]:
    """Return a case whose batch has rewards."""
    batch, outputs = case(seed, **kwargs)
    rows = len(batch["input_ids"])
    g = torch.Generator().manual_seed(seed)
    batch["rewards"] = torch.randn(rows, generator=g, dtype=torch.float64)
    return batch, outputs


def assert_agrees(name: str, config: Config, batch: Tensors, outputs: Tensors, gradient: bool = True) -> None:
    oracle = ORACLES[name][0]
    field = "logits" if "logits" in outputs else "next_token_logprobs"
    loss = registry.create(name, config)
    if loss.contract.coupled:
        # Sorted over the batch at hand, whose own pairs are counted; the oracles divide by a global count when there is one.
        batch = {key: x for key, x in batch.items() if not key.startswith("global_valid")}
    got, got_gradient = value_and_gradient(loss, batch, outputs, field)
    expected = oracle(arrays(batch), arrays(outputs), **config)
    assert got.item() == pytest.approx(expected, rel=1e-10, abs=1e-14)
    if gradient:
        by_difference = difference_gradient(oracle, arrays(batch), arrays(outputs), field, config)
        torch.testing.assert_close(got_gradient, by_difference, rtol=1e-7, atol=2e-9)


@pytest.mark.parametrize("counts", [False, True], ids=["local", "global"])
@pytest.mark.parametrize(("name", "config"), RUNS)
def test_value_and_gradient(name: str, config: Config, counts: bool) -> None:
    for sample_mask in (None, "zeros", "floats"):
        batch, outputs = rewarded_case(32, rows=8, sample_mask=sample_mask, counts=counts, width=4)
        # Row 0 is empty and row 2 may be absent; in the other two pairs the chosen row weighs now more, now less.
        assert_agrees(name, config, batch, outputs, gradient=sample_mask == "floats" or (counts and not config))


@pytest.mark.parametrize("sample_mask", [None, "floats"])
@pytest.mark.parametrize("name", ORACLES)
def test_value_on_many_cases(name: str, sample_mask: str | None) -> None:
    for seed in range(4):
        source = ("next_token_logprobs", "logits")[seed % 2]
        batch, outputs = rewarded_case(100 + seed, rows=6, width=8, sample_mask=sample_mask, source=source)
        assert_agrees(name, {}, batch, outputs, gradient=False)


@pytest.mark.parametrize("name", ORACLES)
def test_gradient_of_the_logits(name: str) -> None:
    batch, outputs = rewarded_case(23, rows=6, source="logits", width=4, vocabulary=3, sample_mask="floats")
    assert_agrees(name, {}, batch, outputs)


@pytest.mark.parametrize("name", ORACLES)
def test_nothing_left(name: str) -> None:
    batch, outputs = rewarded_case(37)
    batch["sample_mask"] = torch.zeros(4, dtype=torch.float64)
    assert_agrees(name, {}, batch, outputs)


def test_the_nll_of_orpo_ends_where_the_row_does() -> None:
    for sample_mask in (None, "zeros", "floats"):
        batch, outputs = rewarded_case(41, rows=6, sample_mask=sample_mask, width=5)
        batch["input_lengths"] = torch.tensor([5, 2, 4, 0, 3, 5])
        batch["token_mask"][torch.arange(5) >= batch["input_lengths"][:, None]] = 0
        assert_agrees("orpo", {"nll_span": "full"}, batch, outputs)

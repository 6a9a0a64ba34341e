"""Every preference loss where the policy is its reference: whole batches of answers of any length, holes and weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from loss_reference import registry
from tests.reference.cases import Tensors, value_and_gradient
from tests.reference.preference.answers import FULL_VOCABULARY, answers, source_of

Config = dict[str, Any]
Terms = Callable[[Tensors, Tensors], Tensor | float]
LOG2 = math.log(2)
ROWS = 12
OF_ROWS = ("kto", "apo_zero_unpaired", "bco", "nash_md")
GROUPS_OF_3 = ("infonca", "plackett_luce_dpo")


def at_reference(name: str, seed: int, sample_mask: str | None) -> tuple[Tensors, Tensors]:
    """Return answers whose reference gives every token the probability that the policy gives it."""
    batch, outputs = answers(seed, sample_mask=sample_mask, source=source_of(name), rows=ROWS)
    if name in FULL_VOCABULARY:
        log_pi = outputs["logits"][:, :-1].log_softmax(-1)
        lp = log_pi.gather(-1, batch["input_ids"][:, 1:, None]).squeeze(-1)
        batch["reference_logits"] = outputs["logits"].clone()
    else:
        lp = outputs["next_token_logprobs"]
    batch["reference_policy_logprobs"] = torch.cat([torch.full_like(lp[:, :1], math.nan), lp], dim=1)
    batch["mismatched_log_ratios"] = torch.zeros(ROWS, dtype=torch.float64)
    return batch, outputs


def gap(batch: Tensors) -> Tensor:
    return batch["rewards"][0::2] - batch["rewards"][1::2]


def longer(batch: Tensors) -> Tensor:
    n = batch["token_mask"][:, 1:].sum(1)
    return n[0::2] - n[1::2]


def log_probability(batch: Tensors, outputs: Tensors) -> Tensor:
    return (outputs["next_token_logprobs"] * batch["token_mask"][:, 1:]).sum(1)


def coin_kl(x: Tensor, y: Tensor) -> Tensor:
    p, q = x.sigmoid(), y.sigmoid()
    return p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()


def wpo_weight(batch: Tensors, outputs: Tensors) -> Tensor:
    pi, m = outputs["logits"][:, :-1].softmax(-1), batch["token_mask"][:, 1:]
    per_token = pi.gather(-1, batch["input_ids"][:, 1:, None]).squeeze(-1) / pi.square().sum(-1)
    w = ((per_token.log() * m).sum(1) / m.sum(1).clamp(min=1)).exp()
    return w[0::2] * w[1::2]


def half_lambda(batch: Tensors, _: Tensors) -> Tensor:
    return 0.2 + 0.55 * (batch["labels"] != 0).double()  # half of 0.4, and half of 1.5


UNEQUAL = {"desirable_weight": 1.5, "undesirable_weight": 0.4}
UNDECIDED = ("dpo", "cdpo", "robust_dpo", "dpo_norm", "fdpo_forward_kl", "fdpo_js", "fdpo_alpha", "aot", "aot_unpaired")
ALSO_UNDECIDED = ("ld_dpo", "dpop", "tdpo1", "tdpo2", "beta_dpo", "chi_po", "online_dpo", "bco")
TABLE: list[tuple[str, Config, Terms]] = [
    *((name, {"beta": 0.7}, lambda batch, outputs: LOG2) for name in UNDECIDED + ALSO_UNDECIDED),
    *((name, {"label_smoothing": 0.3}, lambda batch, outputs: LOG2) for name in ("dpo", "aot", "aot_unpaired")),
    *((name, {"beta": 0.7}, lambda batch, outputs: 1.0) for name in ("hinge_dpo", "apo_zero", "apo_down")),
    *((name, {"beta": 0.7}, lambda batch, outputs: 2 * LOG2) for name in ("nca_pair", "bco_pair")),
    *(("ipo", {"average_log_probs": mean}, lambda batch, outputs: 25.0) for mean in (False, True)),
    ("online_dpo", {"loss_type": "ipo"}, lambda batch, outputs: 25.0),
    ("exo_pair", {"label_smoothing": 0.2}, lambda batch, outputs: -LOG2 - 0.5 * math.log(0.2 * 0.8)),
    ("discopop", {}, lambda batch, outputs: 0.5 * (1 + LOG2)),
    ("sppo_hard", {}, lambda batch, outputs: 50.0),
    ("sppo_soft", {}, lambda batch, outputs: 2 * ((batch["preference_probability"][0::2] - 0.5) / 0.1) ** 2),
    ("cal_dpo", {}, lambda batch, outputs: LOG2 + 50.0),
    ("r_dpo", {"alpha": 0.4}, lambda batch, outputs: F.softplus(-0.4 * longer(batch))),
    ("wpo", {}, lambda batch, outputs: wpo_weight(batch, outputs) * LOG2),
    ("rpo_sq", {"eta": 0.5}, lambda batch, outputs: (0.5 * gap(batch)) ** 2),
    ("rpo_fwd_kl", {"eta": 0.5}, lambda batch, outputs: coin_kl(0 * gap(batch), 0.5 * gap(batch))),
    ("rpo_bwd_kl", {"eta": 0.5}, lambda batch, outputs: coin_kl(0.5 * gap(batch), 0 * gap(batch))),
    ("rpo_scale", {}, lambda batch, outputs: gap(batch).abs() * LOG2),
    ("rebel", {"eta": 0.5}, lambda batch, outputs: gap(batch) ** 2),
    ("odpo", {"alpha": 1.3}, lambda batch, outputs: F.softplus(1.3 * gap(batch))),
    ("xpo", {"alpha": 0.3}, lambda batch, outputs: LOG2 + 0.3 * log_probability(batch, outputs)[1::2]),
    *((name, UNEQUAL, half_lambda) for name in ("kto", "apo_zero_unpaired")),
    (
        "nash_md",
        {},
        lambda batch, outputs: -(batch["preference_probability"] - 0.5) * log_probability(batch, outputs),
    ),
    ("infonca", {"group_size": 3}, lambda batch, outputs: math.log(3)),
    ("infonca", {"group_size": 3, "variant": "nca"}, lambda batch, outputs: 2 * LOG2),
    ("plackett_luce_dpo", {"group_size": 3}, lambda batch, outputs: math.log(6)),
]


@pytest.mark.parametrize("sample_mask", [None, "floats"])
@pytest.mark.parametrize(("name", "config", "terms"), TABLE, ids=[f"{name}-{config}" for name, config, _ in TABLE])
def test_value(name: str, config: Config, terms: Terms, sample_mask: str | None) -> None:
    batch, outputs = at_reference(name, 71, sample_mask)
    for extra in ("desirable_probability", "selection_mask"):
        del batch[extra]
    together = 1 if name in OF_ROWS else 3 if name in GROUPS_OF_3 else 2
    weights = batch.get("sample_mask", torch.ones(ROWS, dtype=torch.float64)).reshape(-1, together).amin(1)
    expected = (weights * terms(batch, outputs)).sum() / weights.sum()
    value, gradient = value_and_gradient(registry.create(name, config), batch, outputs, source_of(name))
    # Terms of order 1 to 100 and a dozen of them: some hundred roundings of float64.
    torch.testing.assert_close(value, expected, rtol=1e-13, atol=1e-14)
    assert gradient.abs().sum() > 0


def test_the_rewards_reached_are_the_rewards_given() -> None:
    """Where equal rewards ask for no margin, policy = reference is where the reward-aware losses rest."""
    for name in ("rpo_sq", "rpo_fwd_kl", "rpo_bwd_kl", "rpo_scale", "rebel"):
        batch, outputs = at_reference(name, 73, None)
        batch["rewards"] = torch.full((ROWS,), 0.7, dtype=torch.float64)
        value, gradient = value_and_gradient(name, batch, outputs, source_of(name))
        assert value.item() == pytest.approx(0.0, abs=1e-15)
        assert gradient.abs().max() < 1e-15


def test_equal_rewards_ask_odpo_for_no_offset() -> None:
    batch, outputs = answers(75, sample_mask="floats")
    batch["rewards"] = torch.full((ROWS,), 0.7, dtype=torch.float64)
    got = value_and_gradient(registry.create("odpo", {"alpha": 3.0}), batch, outputs, "next_token_logprobs")
    torch.testing.assert_close(got, value_and_gradient("dpo", batch, outputs, "next_token_logprobs"))

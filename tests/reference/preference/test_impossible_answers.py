"""An answer with a token that a filter ruled out: its log-probability is -inf, and the loss is its limit, not 0 times inf."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from loss_reference import registry
from loss_reference.preference.bernoulli import bernoulli_kl
from tests.reference.cases import Tensors, value_and_gradient
from tests.reference.preference.answers import one_token

Config = dict[str, Any]
LP = "next_token_logprobs"
SIZES = {"tpo": 3, "tpo_l": 3}
FAR = -1e9
SMOOTHING_OFF = {"label_smoothing": 0.0}
OF_THE_MARGIN = (
    "dpo",
    "dpo_norm",
    "ld_dpo",
    "r_dpo",
    "aot",
    "aot_unpaired",
    "odpo",
    "online_dpo",
    "rpo_scale",
    "hinge_dpo",
)
LIMITS: list[tuple[str, Config, int]] = [
    *((name, {}, 1) for name in OF_THE_MARGIN),
    *((name, {}, 1) for name in ("fdpo_forward_kl", "fdpo_js", "fdpo_alpha", "chi_po", "discopop", "dpop", "rpo_fwd_kl")),
    *((name, {}, 1) for name in ("nca_pair", "bco_pair", "apo_zero", "apo_down", "exo_pair", "simpo", "alphapo", "orpo")),
    *((name, {}, 1) for name in ("cpo", "slic_hf", "tpo", "tpo_l", "lipo", "plackett_luce_dpo", "rrhf", "kto")),
    *((name, SMOOTHING_OFF, 1) for name in ("cdpo", "robust_dpo")),
    ("cpo", {"alpha": 0.0, "loss_type": "hinge"}, 1),
    ("xpo", {"alpha": 0.0}, 1),
    ("rrhf", {"nll_weight": 0.0}, 1),
    ("dpop", {"lambda_": 0.0}, 1),
    ("fdpo_alpha", {"alpha": 1.0}, 1),
    ("alphapo", {"alpha": 0.0}, 1),
    # Bounded where the chosen answer is the impossible one, and blind to a gold answer that is not imitated.
    *((name, {}, 0) for name in ("exo_pair", "rpo_fwd_kl", "apo_zero", "apo_down", "kto", "fdpo_forward_kl", "chi_po")),
    *((name, {"tpo_alpha": 0.0}, 2) for name in SIZES),
]  # fmt: skip
UNBOUNDED: list[tuple[str, Config]] = [
    *((name, {}) for name in ("dpo", "hinge_dpo", "fdpo_js", "simpo", "cpo", "tpo", "lipo", "rrhf", "plackett_luce_dpo")),
    *((name, SMOOTHING_OFF) for name in ("cdpo", "robust_dpo")),
    ("cpo", {"alpha": 0.0}),
    ("dpop", {"lambda_": 0.0}),
    ("rrhf", {"nll_weight": 0.0}),
]  # fmt: skip


def answers(name: str, impossible: int, p: float) -> tuple[Tensors, Tensors]:
    """Return one pair or triple, the better answer first, one of whose log-probabilities is ``p``."""
    K = SIZES.get(name, 2)
    fields = {"rewards": [1.0, 0.0, 0.5][:K], "labels": [1.0, 0.0, 1.0][:K], "kl_reference_point": 0.1}
    batch, outputs = one_token([0.4, 0.1, 0.2][:K], **fields)
    outputs[LP][impossible] = p
    return batch, outputs


@pytest.mark.parametrize(("name", "config", "impossible"), LIMITS, ids=str)
def test_the_loss_is_its_limit(name: str, config: Config, impossible: int) -> None:
    loss = registry.create(name, config)
    got = value_and_gradient(loss, *answers(name, impossible, -math.inf), LP)
    expected = value_and_gradient(loss, *answers(name, impossible, FAR), LP)
    assert expected[0].isfinite()
    torch.testing.assert_close(got, expected, rtol=1e-14, atol=1e-300)


@pytest.mark.parametrize(("name", "config"), UNBOUNDED, ids=str)
def test_a_chosen_answer_that_cannot_be_costs_everything(name: str, config: Config) -> None:
    batch, outputs = answers(name, 0, -math.inf)
    assert registry.create(name, config).compute_loss(batch, outputs) == math.inf


def test_filtered_logits_of_the_rejected_answer() -> None:
    """Beside another pair, and through the softmax: neither value nor any gradient is NaN."""
    batch, _ = one_token([0.4, 0.1, 0.3, 0.2])
    logits = torch.zeros(4, 2, 3, dtype=torch.float64)
    logits[1, 0, 0] = -math.inf
    outputs = {"logits": logits}
    value, gradient = value_and_gradient("dpo", batch, outputs, "logits")
    other = {k: x[2:] for k, x in batch.items()}, {"logits": logits[2:]}
    assert value.item() == pytest.approx(value_and_gradient("dpo", *other, "logits")[0].item() / 2)
    assert gradient[:2].abs().max() == 0
    assert gradient[2:].isfinite().all()


def test_ld_dpo_does_not_look_past_the_shorter_answer() -> None:
    batch, outputs = one_token([0.4, 0.1])
    longer = {k: torch.cat([x, x[:, 1:]], dim=1) for k, x in batch.items()}
    longer["token_mask"][1, 2] = 0.0
    lp = torch.cat([outputs[LP], torch.tensor([[-math.inf], [-1.0]], dtype=torch.float64)], dim=1)
    loss = registry.create("ld_dpo", {"alpha": 0.0})
    value, gradient = value_and_gradient(loss, longer, {LP: lp}, LP)
    expected, slope = value_and_gradient(loss, batch, outputs, LP)
    assert value == expected
    assert torch.equal(gradient, torch.cat([slope, torch.zeros(2, 1, dtype=torch.float64)], dim=1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_divergence_of_a_coin_that_always_falls_one_way(dtype: torch.dtype) -> None:
    x = torch.tensor([-math.inf, -1e6, -1e3, 1e3, 1e6, math.inf], dtype=dtype, requires_grad=True)
    kl = bernoulli_kl(x, math.log(0.8), math.log(0.2))
    (slope,) = torch.autograd.grad(kl.sum(), x)
    assert kl.tolist() == pytest.approx([-math.log(0.2)] * 3 + [-math.log(0.8)] * 3)
    assert slope.tolist() == [0.0] * 6


@pytest.mark.parametrize("impossible", [0, 1])
@pytest.mark.parametrize("weighting", ["aligned", "clamped"])
def test_wpo_trusts_no_pair_the_policy_could_not_have_written(weighting: str, impossible: int) -> None:
    batch, _ = one_token([0.4, 0.1, 0.3, 0.2])
    logits = torch.zeros(4, 2, 3, dtype=torch.float64)
    loss = registry.create("wpo", {"weighting": weighting})
    found = []
    for z in (-math.inf, FAR):
        logits[impossible, 0, 0] = z
        found.append(value_and_gradient(loss, batch, {"logits": logits}, "logits"))
    torch.testing.assert_close(found[0], found[1], rtol=1e-14, atol=0)
    assert found[0][1][:2].abs().max() == 0
    assert found[0][1][2:].abs().max() > 0


@pytest.mark.parametrize(
    ("name", "config"),
    [
        *((name, {}) for name in ("infonca", "plackett_luce_dpo", "lipo", "rrhf")),
        ("infonca", {"variant": "nca"}),
        ("rrhf", {"nll_weight": 0.0}),
    ],
    ids=str,
)
def test_the_worst_of_three_may_be_impossible(name: str, config: Config) -> None:
    """Rewards 2000 apart leave it none of the target of InfoNCA, whose 0 log 0 is 0."""
    loss = registry.create(name, {"group_size": 3, **config})
    found = []
    for p in (-math.inf, FAR):
        batch, outputs = one_token([0.1, 0.2, 0.3], rewards=[40.0, 39.0, -2000.0])
        outputs[LP][2] = p
        found.append(value_and_gradient(loss, batch, outputs, LP))
    assert found[1][0].isfinite()
    torch.testing.assert_close(found[0], found[1], rtol=1e-14, atol=0)

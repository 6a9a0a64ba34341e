"""Covariance, A*-PO, VAPO, KL, correction and entropy losses against float64 loops written by somebody else."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from loss_reference.policy_gradient.a2po import a2po_value
from tests.oracles import policy_gradient_corrections as corrections
from tests.oracles import policy_gradient_covariance as covariance
from tests.oracles import policy_gradient_penalties as penalties
from tests.reference.agreement import assert_agrees
from tests.reference.policy_gradient.further import NAMES, further_case, source_of
from tests.reference.test_against_oracles import AGGREGATIONS, Config, Oracle

CLIPS: list[Config] = [{"ratio_clip_min": 0.1, "ratio_clip_max": 0.4}, {"ratio_clip_min": 1.0, "ratio_clip_max": 5.0}]
CLAMPS: list[Config] = [{"input_clamp": 0.3}, {"output_clamp": 0.1}, {"input_clamp": 0.6, "output_clamp": 0.2}]
KL: list[Config] = [*AGGREGATIONS, {"coefficient": 0.3}, *CLAMPS]
BY_TYPE: list[Config] = [*KL, *({"kl_type": kl_type} for kl_type in ("k1", "k2", "k3", "abs"))]
CORRECTED: list[Config] = [*AGGREGATIONS, *CLIPS]
BOUNDS: list[Config] = [{"is_min": 0.8, "is_max": 1.2}, {"is_min": 0.0, "is_max": 1.0}]
DIVERGENCES: list[Config] = [
    *({"level": level, "upper": upper} for level in ("token", "seq_mean", "seq_sum") for upper in (1.1, 1.4)),
    {"lower": 0.5, "upper": 1.1},
    {"lower": 0.99, "upper": 5.0, "level": "seq_mean"},
    *(
        {"estimator": estimator, "level": level, "upper": upper}
        for estimator in ("k2", "k3")
        for level in ("token", "seq_mean", "seq_sum", "seq_max")
        for upper in (0.02, 0.1, 0.3)
    ),
]
QUANTILES: list[Config] = [{"top_quantile": q} for q in (0.0, 0.2, 0.5, 0.9)]
ORACLES: dict[str, tuple[Oracle, list[Config]]] = {
    "rloo": (covariance.rloo, [*CLIPS, {"ratio_level": "token"}, {"ratio_level": "token", **CLIPS[0]}]),
    "gpg": (covariance.gpg, AGGREGATIONS),
    "clip_cov": (
        covariance.clip_cov,
        [
            *CLIPS,
            {"clip_cov_lb": -0.1},
            *({"clip_cov_ratio": r, "clip_cov_lb": 0.0, "clip_cov_ub": 50.0} for r in (0.0, 0.1, 0.3, 0.5, 1.0)),
            {"clip_cov_ratio": 0.4, "clip_cov_lb": -0.5, "clip_cov_ub": 0.5},
        ],
    ),
    "kl_cov": (
        covariance.kl_cov,
        [*({"kl_cov_ratio": r} for r in (0.0, 0.1, 0.3, 1.0)), {"ppo_kl_coef": 0.1, "kl_cov_ratio": 0.5}],
    ),
    "a2po": (covariance.a2po, [{"beta": 0.5}, {"beta": 2.0}]),
    "vapo_nll": (covariance.vapo_nll, [{"coefficient": 0.1}, {"coefficient": 0.0}]),
    **{f"kl_{k}": (getattr(penalties, f"kl_{k}"), KL) for k in ("k1", "k2", "k3", "abs")},
    "kl_straight_through": (penalties.kl_straight_through, BY_TYPE),
    "kl_unbiased": (penalties.kl_unbiased, BY_TYPE),
    "tis": (corrections.tis, [*CORRECTED, *BOUNDS]),
    "icepop": (corrections.icepop, [*CORRECTED, *BOUNDS]),
    "seq_truncate": (corrections.seq_truncate, [*CORRECTED, {"is_max": 1.0}, {"is_max": 0.5}]),
    "seq_mask": (corrections.seq_mask, [*CORRECTED, *BOUNDS]),
    "seq_mask_tis": (corrections.seq_mask_tis, [*CORRECTED, *BOUNDS, {"is_min": 0.9, "is_max": 1.1}]),
    "off_policy_mask": (corrections.off_policy_mask, [*CORRECTED, {"threshold": 0.0}, {"threshold": 0.5}]),
    "divergence_mask": (corrections.divergence_mask, [*CORRECTED, *DIVERGENCES]),
    "entropy_bonus": (penalties.entropy_bonus, [*AGGREGATIONS, {"coefficient": 1.0}, *QUANTILES]),
}
RUNS = [(name, config) for name, (_, configs) in ORACLES.items() for config in [{}, *configs]]


def has_value_gradient(name: str, config: Config) -> bool:
    """Return whether the gradient is that of the value: some stop it on purpose."""
    return name != "kl_straight_through" and not (name == "kl_unbiased" and "input_clamp" in config)


def test_every_loss_has_an_oracle() -> None:
    assert set(ORACLES) == set(NAMES)


@pytest.mark.parametrize("counts", [False, True], ids=["local", "global"])
@pytest.mark.parametrize("sample_mask", [None, "zeros", "floats"])
@pytest.mark.parametrize(("name", "config"), RUNS)
def test_value_and_gradient(name: str, config: Config, sample_mask: str | None, counts: bool) -> None:
    for seed in (17, 18):
        batch, outputs = further_case(seed, source_of(name), sample_mask=sample_mask, counts=counts, vocabulary=4)
        gradient = seed == 17 and has_value_gradient(name, config)
        assert_agrees(name, ORACLES[name][0], config, batch, outputs, gradient=gradient)


@pytest.mark.parametrize("name", NAMES)
def test_value_on_many_cases(name: str) -> None:
    for seed in range(8):
        batch, outputs = further_case(100 + seed, source_of(name), rows=6, width=9, sample_mask="floats")
        assert_agrees(name, ORACLES[name][0], {}, batch, outputs, gradient=False)
    batch, outputs = further_case(130, "logits", sample_mask="floats")
    assert_agrees(name, ORACLES[name][0], {}, batch, outputs, gradient=False)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_left(name: str) -> None:
    batch, outputs = further_case(37, source_of(name))
    batch["sample_mask"] = torch.zeros(4, dtype=torch.float64)
    assert_agrees(name, ORACLES[name][0], {}, batch, outputs)


@pytest.mark.parametrize("kl_gradient", ["pathwise", "score_function", "straight_through_k2"])
def test_the_value_of_an_estimator_does_not_depend_on_its_gradient(kl_gradient: str) -> None:
    config: dict[str, Any] = {"kl_gradient": kl_gradient, "input_clamp": 0.4, "output_clamp": 0.3}
    batch, outputs = further_case(41, sample_mask="floats")
    for name in ("kl_k1", "kl_k2", "kl_k3", "kl_abs"):
        assert_agrees(name, ORACLES[name][0], config, batch, outputs, gradient=False)


@pytest.mark.parametrize("beta1", [0.1, 0.5, 10.0])
def test_optimal_value(beta1: float) -> None:
    rewards = torch.randn(3, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = torch.from_numpy(covariance.a2po_value(rewards.numpy(), beta1))
    torch.testing.assert_close(a2po_value(rewards, beta1), expected, rtol=1e-12, atol=1e-12)

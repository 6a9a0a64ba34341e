"""The settings a loss has when nothing is said: those of the papers and libraries the catalogue of losses names."""

from __future__ import annotations

from typing import Any

import pytest

from loss_reference import registry
from loss_reference.settings import settings_of

CLIPS = {"ratio_clip_min": 0.2, "ratio_clip_max": 0.2}
SEQUENCE_CLIPS = {"ratio_clip_min": 3e-4, "ratio_clip_max": 4e-4}
TOKEN, ROW = {"aggregation": "token_mean"}, {"aggregation": "seq_mean_token_mean"}
DEFAULTS: dict[str, dict[str, Any]] = {
    "reinforce": TOKEN,
    "ppo_clip": {**CLIPS, **TOKEN, "ratio_clip_c": None, "log_ratio_clamp": None},
    "ppo_dual_clip": {**CLIPS, "ratio_clip_c": 3.0},
    "grpo": {**CLIPS, **ROW, "kl_type": "k3", "kl_gradient": "pathwise"},
    "dapo": {"ratio_clip_min": 0.2, "ratio_clip_max": 0.28, **TOKEN},
    "dr_grpo": {**CLIPS, "max_length": None},
    "gspo": {**SEQUENCE_CLIPS, **ROW},
    "gspo_token": {**SEQUENCE_CLIPS, **ROW},
    "luspo": {**SEQUENCE_CLIPS, "reference_policy_kl_penalty": 0.0},
    "cispo": {**CLIPS, **TOKEN, "weight_bound": "relative"},
    "sapo": {"tau_pos": 1.0, "tau_neg": 1.05, **ROW},
    "vespo": {"k_pos": 2.0, "lambda_pos": 3.0, "k_neg": 3.0, "lambda_neg": 2.0},
    "gmpo": {"ratio_clip_min": 0.4, "ratio_clip_max": 0.4},
    "clip_cov": {**CLIPS, "clip_cov_ratio": 2e-4, "clip_cov_lb": 1.0, "clip_cov_ub": 5.0},
    "kl_cov": {"kl_cov_ratio": 2e-4, "ppo_kl_coef": 1.0},
    "a2po": {"beta": 1e-3},
    "rloo": {**CLIPS, "ratio_level": "sequence"},
    **{f"kl_{k}": {"kl_gradient": "pathwise", "input_clamp": None, "output_clamp": None} for k in ("k1", "k2", "k3")},
    "kl_straight_through": {"kl_type": "k3"},
    "kl_unbiased": {"kl_type": "k3"},
    "tis": {"is_min": 0.0, "is_max": 2.0, "overflow": "saturate"},
    "seq_truncate": {"is_max": 3.0},
    "seq_mask": {"is_max": 3.0},
    "divergence_mask": {"estimator": "k1", "upper": 2.0, "lower": None},
    "entropy_bonus": {"top_quantile": 1.0, **TOKEN},
    "value_mse": {"scale": 1.0},
    "value_clipped": {"value_clip": 0.2, "scale": 1.0},
    "forward_kl": {"temperature": 1.0},
    "mixed_kl": {"mixed_kl_weight": 0.5},
    "generalized_jsd": {"beta": 0.5},
    "skew_forward_kl": {"skew": 0.1},
    "skew_reverse_kl": {"skew": 0.1},
    "hinton_kd": {"alpha": 0.5, "temper_hard": False},
    "topk_renorm": {"k": 64, "mixed_kl_weight": 0.5},
    "zero_outside_topk": {"k": 64},
    "minillm": {"temperature": 1.0, "length_normalization": True, "single_step_weight": 1.0},
    "iw_opd": {"gamma": 0.5},
    "sdft": {"alpha": 0.5, "is_clip": 2.0},
    "sdpo": {"distillation_weight": 1.0, "is_clip": 2.0},
    "uld": {"crossentropy_weight": 0.0},
    "hybrid_uld": {"beta": 0.5, "matched_weight": None, "unmatched_weight": None},
    "cosine_distill": {"beta": 0.5, "hard_weight": 0.0},
    "pairwise_contrastive": {"temperature": 0.1},
    "ntxent": {"temperature": 0.07},
    "supcon": {"temperature": 0.1},
    "triplet_margin": {"margin": 1.0, "soft": False, "average": "all"},
    "circle": {"gamma": 80.0, "margin": 0.4},
    "multi_similarity": {"alpha": 2.0, "beta": 50.0, "base": 0.5},
    "moe_load_balance": {"normalize_by_k": False},
    "mpo": {"preference_weight": 0.8, "quality_weight": 0.2, "generation_weight": 1.0},
    "adaptive": {"adaptation_rate": 0.1, "target_loss": 1.0},
    "dynamic_weight": {"adaptation_rate": 0.01},
    "custom": {"custom_weight": 1.0},
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_defaults(name: str) -> None:
    settings = settings_of(registry.get(name))
    assert {key: settings[key].default for key in DEFAULTS[name]} == DEFAULTS[name]


def test_the_learnt_scale_and_bias_of_siglip_begin_at_10_and_minus_10() -> None:
    loss = registry.create("siglip")
    assert loss.log_scale.exp().item() == pytest.approx(10.0, rel=1e-6)
    assert loss.bias.item() == -10.0

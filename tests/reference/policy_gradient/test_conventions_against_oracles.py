"""The options that give another library's number, each beside the oracle's keyword of the same name."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from loss_reference import registry
from tests.oracles import policy_gradient, value, value_clipping
from tests.oracles import policy_gradient_corrections as corrections
from tests.oracles import policy_gradient_penalties as penalties
from tests.oracles import policy_gradient_sequences as sequences
from tests.oracles import policy_gradient_tokens as tokens
from tests.reference.agreement import assert_agrees
from tests.reference.cases import Tensors, value_and_gradient
from tests.reference.policy_gradient.further import CORRECTED, FIELD, WEIGHTED, further_case
from tests.reference.policy_gradient.helpers import CONFIG
from tests.reference.test_against_oracles import Config, Oracle, arrays

CLIPPED: list[Config] = [{"log_ratio_clamp": 0.15}, {"ratio_clip_c": 1.05}]
BY_ROW: Config = {"ratio_level": "sequence", "ratio_clip_max": 0.05}
CORRECTION: list[Config] = [*CLIPPED, BY_ROW, {**BY_ROW, "log_ratio_clamp": 0.04, "ratio_clip_c": 1.02}]
NORMALIZED: list[Config] = [
    {"batch_normalize": True},
    {"batch_normalize": True, "is_max": 1.05, "aggregation": "seq_mean_token_mean"},
]
SEQUENCE: list[Config] = [{"log_ratio_max": 0.03, "ratio_clip_min": 0.1, "ratio_clip_max": 1.0}]
PENALIZED: Config = {"reference_policy_kl_penalty": 0.7, "ratio_clip_min": 0.1, "ratio_clip_max": 1.0}
BY_TOKEN: Config = {"aggregation": "token_mean"}
BOUNDS: list[Config] = [{"weight_bound": "absolute", "ratio_clip_max": 0.9}, {"weight_bound": "upper"}]
CLAMPED_KL: list[Config] = [
    {"reference_policy_kl_penalty": 0.7, **clamps}
    for clamps in ({"kl_input_clamp": 0.4}, {"kl_output_clamp": 0.1}, {"kl_input_clamp": 0.4, "kl_output_clamp": 0.1})
]
ORACLES: dict[str, tuple[Oracle, list[Config]]] = {
    "ppo_clip": (policy_gradient.ppo_clip, CLIPPED),
    "grpo": (policy_gradient.grpo, [*CLIPPED, *CLAMPED_KL]),
    "dapo": (tokens.dapo, [*CLIPPED, {"aggregation": "seq_mean_token_sum"}]),
    "bnpo": (tokens.bnpo, CLIPPED),
    "dr_grpo": (tokens.dr_grpo, [*CLIPPED, {"divisor": "length"}, {"divisor": "length", "max_length": 0.5}]),
    "ppo_dual_clip": (
        tokens.dual_clip,
        [CLIPPED[0], *({"ratio_clip_c": c, "clip_c_bounds": "ratio"} for c in (1.05, 1.1, 1.5))],
    ),
    "cispo": (tokens.cispo, [CLIPPED[0], *BOUNDS, {**BOUNDS[0], **CLIPPED[0], "aggregation": "seq_mean_token_mean"}]),
    "sapo": (tokens.sapo, [CLIPPED[0], BY_TOKEN]),
    "gspo": (sequences.gspo, [*SEQUENCE, BY_TOKEN]),
    "gspo_token": (sequences.gspo_token, [*SEQUENCE, BY_TOKEN]),
    "luspo": (
        sequences.luspo,
        [*SEQUENCE, PENALIZED, {**PENALIZED, "padding": "counted"}],
    ),
    "vespo": (
        sequences.vespo,
        [{"importance_sampling": mode, "is_max": C} for mode in ("token_truncate", "token_mask") for C in (1.1, 3.0)],
    ),
    **{name: (getattr(corrections, name), CORRECTION + (NORMALIZED if name in WEIGHTED else [])) for name in CORRECTED},
}
# Where the gradient is not that of the value, it has an oracle of its own.
GRADIENTS: dict[str, Any] = {
    "cispo": tokens.cispo_gradient,
    "sapo": tokens.sapo_gradient,
    "gspo_token": sequences.gspo_token_gradient,
    "vespo": sequences.vespo_gradient,
}
RUNS = [(name, CONFIG.get(name, {}) | config) for name, (_, configs) in ORACLES.items() for config in configs]


def near_case(name: str, **kwargs: Any) -> tuple[Tensors, Tensors]:
    """Return a case in which the options matter: ratios near 1, and negative advantages enough."""
    batch, outputs = further_case(71, rows=6, width=5, **kwargs)
    if name in CORRECTED:
        batch["generation_logprobs"] = batch["prev_logprobs"] + 0.3 * (
            batch["generation_logprobs"] - batch["prev_logprobs"]
        )
    return batch, outputs


@pytest.mark.parametrize("counts", [False, True], ids=["local", "global"])
@pytest.mark.parametrize(("name", "config"), RUNS)
def test_value_and_gradient(name: str, config: Config, counts: bool) -> None:
    oracle = ORACLES[name][0]
    for sample_mask in ("zeros", "floats"):
        batch, outputs = near_case(name, sample_mask=sample_mask, counts=counts)
        gradient = sample_mask == "floats"
        assert_agrees(name, oracle, config, batch, outputs, gradient=gradient and name not in GRADIENTS)
        if name in GRADIENTS:
            _, got = value_and_gradient(registry.create(name, config), batch, outputs, FIELD)
            by_hand = torch.from_numpy(GRADIENTS[name](arrays(batch), arrays(outputs), **config))
            torch.testing.assert_close(got, by_hand, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize(("name", "config"), RUNS)
def test_the_option_matters_here(name: str, config: Config) -> None:
    batch, outputs = near_case(name, sample_mask="floats", counts=True)
    beside = {key: x for key, x in config.items() if key in ("max_length", "ratio_clip_max", "ratio_clip_min")}
    plain = beside if beside != config else CONFIG.get(name, {})
    got, usual = (value_and_gradient(registry.create(name, c), batch, outputs, FIELD) for c in (config, plain))
    assert got[0].item() != pytest.approx(usual[0].item(), rel=1e-6) or not torch.allclose(got[1], usual[1])


def test_a_weight_that_float32_cannot_hold() -> None:
    batch, outputs = near_case("tis", sample_mask="floats")
    batch["generation_logprobs"][:, ::2] -= 120.0
    for overflow in ("saturate", "zero"):
        assert_agrees("tis", corrections.tis, {"overflow": overflow, "is_min": 0.1}, batch, outputs)


@pytest.mark.parametrize("counts", [False, True], ids=["local", "global"])
@pytest.mark.parametrize("aggregation", ["token_mean", "seq_mean_token_mean", "seq_mean_token_sum"])
@pytest.mark.parametrize("top_quantile", [0.3, 0.9])
def test_entropies_divided_by_what_is_kept(top_quantile: float, aggregation: str, counts: bool) -> None:
    batch, outputs = further_case(72, "logits", rows=4, width=4, vocabulary=3, sample_mask="floats", counts=counts)
    config: Config = {"divisor": "kept", "top_quantile": top_quantile, "aggregation": aggregation}
    assert_agrees("entropy_bonus", penalties.entropy_bonus, config, batch, outputs)


@pytest.mark.parametrize("sample_mask", [None, "zeros", "floats"])
@pytest.mark.parametrize(
    ("name", "oracle"), [("value_mse", value.value_mse), ("value_clipped", value_clipping.value_clipped)]
)
def test_value_losses_with_a_divisor_of_their_own(name: str, oracle: Oracle, sample_mask: str | None) -> None:
    batch, _ = further_case(73, sample_mask=sample_mask, counts=True)
    batch["values"] = batch["returns"] + 0.3 * batch["advantages"]
    outputs = {"values": batch["returns"] + batch["prev_logprobs"]}
    assert_agrees(name, oracle, {"normalizer": "local", "scale": 0.1}, batch, outputs)

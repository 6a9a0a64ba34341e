"""What the settings that libraries differ in do to a policy-gradient oracle, against numbers worked out by hand."""

import math
from typing import Any

import numpy as np
import pytest

from .policy_gradient import grpo, ppo_clip
from .policy_gradient_corrections import seq_mask, tis
from .policy_gradient_penalties import entropy_bonus, kl_k3
from .policy_gradient_sequences import gspo, gspo_token, gspo_token_gradient, luspo
from .policy_gradient_tokens import bnpo, cispo, cispo_gradient, dapo, dr_grpo, dual_clip, sapo, sapo_gradient
from .test_oracles import LOG2, Data, Oracle, arr, near
from .test_oracles_more_policy import near_array, random_case, ratios
from .test_policy_gradient_corrections import behind
from .test_policy_gradient_penalties import entropies, gaps
from .value import value_mse
from .value_clipping import value_clipped


@pytest.mark.parametrize("oracle", [ppo_clip, grpo, dapo, bnpo, dual_clip])
def test_a_clamped_log_ratio(oracle: Oracle) -> None:
    # Ratio 4 and advantage -1, its logarithm within log 2 either way; the bounds lie further out.
    for rho, expected in ((4.0, 2.0), (0.25, 0.5), (1.5, 1.5)):
        batch, outputs = ratios(arr([rho]), arr([-1.0]))
        config: dict[str, Any] = {"log_ratio_clamp": LOG2, "ratio_clip_min": 0.9}
        if oracle is grpo:
            config["reference_policy_kl_penalty"] = 0.0
        assert oracle(batch, outputs, **config) == near(expected)


def test_a_clamped_log_ratio_of_cispo_and_sapo() -> None:
    batch, outputs = ratios(arr([4.0]), arr([-1.0]))
    lp = float(outputs["next_token_logprobs"][0, 0])
    assert cispo(batch, outputs, log_ratio_clamp=LOG2, ratio_clip_max=9.0) == near(2 * lp)
    assert sapo(batch, outputs, log_ratio_clamp=LOG2) == near(4 / 1.05 / (1 + math.exp(-1.05)))
    assert (sapo_gradient(batch, outputs, log_ratio_clamp=LOG2) == 0.0).all()


def test_what_bounds_the_ratio() -> None:
    # c = 1.1: positive advantages are cut off there under "ratio" alone.
    for rho, advantage, negative, ratio in ((2.0, 1.0, -1.2, -1.1), (2.0, -1.0, 1.1, 1.2), (1.05, 1.0, -1.05, -1.05)):
        batch, outputs = ratios(arr([rho]), arr([advantage]))
        assert dual_clip(batch, outputs, ratio_clip_c=1.1) == near(negative)
        assert dual_clip(batch, outputs, ratio_clip_c=1.1, clip_c_bounds="ratio") == near(ratio)


def test_bounds_of_the_weight_of_cispo() -> None:
    batch, outputs = ratios(arr([3.0, 0.5]), arr([1.0, 1.0]))
    for bound, high, weights in (
        ("relative", 0.2, (1.2, 0.8)),
        ("absolute", 0.2, (0.2, 0.2)),
        ("absolute", 1.0, (1.0, 0.5)),
        ("upper", 0.272, (1.272, 0.5)),
    ):
        gradient = cispo_gradient(batch, outputs, weight_bound=bound, ratio_clip_max=high)
        assert gradient[0] == near_array(-np.array(weights) / 2)


def test_a_bounded_sequence_ratio() -> None:
    # Ratios 8 and 2 make s = 4, at most 3 here; in a row of two tokens luspo counts both.
    batch, outputs = ratios(arr([8.0, 2.0]), arr([-1.0, -1.0]))
    config: dict[str, Any] = {"log_ratio_max": math.log(3)}
    assert gspo(batch, outputs, **config) == gspo_token(batch, outputs, **config) == near(3.0)
    assert luspo(batch, outputs, **config) == near(6.0)
    assert gspo(batch, outputs, log_ratio_max=math.log(5)) == near(4.0)
    assert (gspo_token_gradient(batch, outputs, **config) == 0.0).all()
    assert gspo_token_gradient(batch, outputs)[0] == near_array(arr(2, 2))
    assert gspo(batch, outputs, aggregation="fixed", max_length=5.0) == near(8 / 5)


def test_the_penalty_of_luspo() -> None:
    # k3 of log 2, -log 2 and 2 log 2: log 2 - 1/2, 1 - log 2 and 2 log 2 - 3/4; the last one is padding.
    batch, outputs = gaps([LOG2, -LOG2, 2 * LOG2])
    batch["token_mask"][0, 3] = 0
    batch["advantages"] = np.zeros_like(batch["token_mask"])
    assert luspo(batch, outputs, reference_policy_kl_penalty=3.0) == near(1.5)
    counted = luspo(batch, outputs, reference_policy_kl_penalty=3.0, padding="counted")
    assert counted == near(3 * 2 * (2 * LOG2 - 0.25) / 3)
    # What comes before the answer is no padding, and a row without tokens has no answer.
    batch["token_mask"][0, 1:] = [0, 1, 0]
    counted = luspo(batch, outputs, reference_policy_kl_penalty=1.0, padding="counted")
    assert counted == near((LOG2 + 0.25) / 2)
    batch["token_mask"][0, 1:] = 0
    assert luspo(batch, outputs, reference_policy_kl_penalty=1.0, padding="counted") == 0.0


def test_dr_grpo_by_length_alone() -> None:
    batch, outputs = random_case(95)
    value = dr_grpo(batch, outputs, max_length=7.0)
    assert dr_grpo(batch, outputs, max_length=7.0, divisor="length") == near(4 * value)
    counted: Data = {**batch, "global_valid_seqs": np.array(9.0)}
    assert dr_grpo(counted, outputs, max_length=7.0, divisor="length") == near(4 * value)


def test_corrected_ratios() -> None:
    # Weights 1; ratios 8 and 2 of one row, A = -1: by row 4 and 4, of which c keeps 3.
    batch, outputs = ratios(arr([8.0, 2.0]), arr([-1.0, -1.0]))
    batch["generation_logprobs"] = batch["prev_logprobs"]
    assert tis(batch, outputs) == near(5.0)
    assert tis(batch, outputs, ratio_level="sequence") == near(4.0)
    assert tis(batch, outputs, ratio_level="sequence", ratio_clip_c=3.0) == near(3.0)
    assert seq_mask(batch, outputs, ratio_clip_c=3.0) == near(2.5)
    assert seq_mask(batch, outputs, log_ratio_clamp=math.log(4)) == near(3.0)


def test_a_weight_that_overflows_float32() -> None:
    # W0 = e^100 and 1/2, terms 1 and 2.
    batch, outputs = behind([math.exp(100.0), 0.5])
    assert tis(batch, outputs) == near((2 + 1) / 2)
    assert tis(batch, outputs, overflow="zero") == near((0 + 1) / 2)
    assert tis(batch, outputs, overflow="zero", is_min=0.1) == near((0.1 + 1) / 2)
    assert tis(*behind([math.exp(88.0), 0.5]), overflow="zero") == near((2 + 1) / 2)


def test_clamps_of_the_penalty_in_grpo() -> None:
    for config in ({}, {"input_clamp": 2.0}, {"output_clamp": 3.0}, {"input_clamp": 2.0, "output_clamp": 3.0}):
        batch, outputs = gaps([3, -3])
        batch |= {"advantages": np.zeros((1, 3))}
        inside = {f"kl_{name}": bound for name, bound in config.items()}
        assert grpo(batch, outputs, reference_policy_kl_penalty=0.5, **inside) == near(
            0.5 * kl_k3(batch, outputs, aggregation="seq_mean_token_mean", **config)
        )


def test_what_divides_kept_entropies() -> None:
    # Entropies 0, 1 and 2, 3 (of log 2); the median 1.5 keeps 2 and 3.
    batch, outputs = entropies([0, 1], [2, 3])
    config: dict[str, Any] = {"coefficient": 1.0, "top_quantile": 0.5}
    assert entropy_bonus(batch, outputs, **config) == near(-5 / 4 * LOG2)
    counted: Data = {**batch, "global_valid_toks": np.array(10.0)}
    for some in (batch, counted):
        assert entropy_bonus(some, outputs, divisor="kept", **config) == near(-5 / 2 * LOG2)
    config = {"coefficient": 1.0, "top_quantile": 0.25, "aggregation": "seq_mean_token_mean"}
    assert entropy_bonus(batch, outputs, **config) == near(-3 / 4 * LOG2)
    assert entropy_bonus(batch, outputs, divisor="kept", **config) == near(-3 / 2 * LOG2)


def test_a_local_mean_of_value_errors() -> None:
    batch: Data = {"token_mask": np.ones((1, 3)), "returns": arr([0, 1, 2]), "values": arr([0, 1, 2])}
    batch["global_valid_toks"] = np.array(8.0)
    outputs: Data = {"values": arr([0, 1, 4])}
    for oracle in (value_mse, value_clipped):
        assert oracle(batch, outputs) == near(0.5 * 4 / 8)
        assert oracle(batch, outputs, normalizer="local") == near(0.5 * 4 / 2)

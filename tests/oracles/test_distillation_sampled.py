"""Sampled distillation oracles against numbers worked out by hand, and their reductions."""

import math
from typing import Any

import numpy as np
import pytest

from .distillation import reverse_kl
from .distillation_divergences import generalized_jsd
from .distillation_sampled import iw_opd, minillm, opd_sampled, rewards_to_go, sdft, sdpo
from .policy_gradient import ppo_clip
from .shared_rules import check_token_rules
from .test_distillation_divergences import EVEN, LOG3, REVERSE
from .test_oracles import LOG2, NAN, Data, Oracle, arr, gathered, near, random_tokens

ALL: list[Oracle] = [minillm, opd_sampled, iw_opd, sdft, sdpo]


def sampled(seed: int) -> tuple[Data, Data]:
    batch, outputs = random_tokens(seed)
    rng = np.random.default_rng(seed)
    batch["sample_mask"] = np.array([1.0, 0.5, 1.0, 2.0])
    batch["teacher_logprobs"] = -rng.random((4, 6)) * 3
    batch["generation_logprobs"] = -rng.random((4, 6)) * 3
    return batch, {"logits": outputs["logits"]}


def test_rewards_to_go_by_hand() -> None:
    # Trained gains 1, 2 and 4 with a hole at distance 1; discounts 1, 1/4 and 1/8 from the first.
    gains = [1.0, None, 2.0, 4.0]
    assert rewards_to_go(gains, 0.5, False) == [2.0, 0.0, 4.0, 4.0]
    assert rewards_to_go(gains, 0.5, True) == [2.0 / 1.375, 0.0, 4.0 / 1.5, 4.0]
    assert rewards_to_go(gains, 1.0, False) == [7.0, 0.0, 6.0, 4.0]
    assert rewards_to_go(gains, 0.0, True) == [1.0, 0.0, 2.0, 4.0]
    # Powers from the first trained place on: 1, 1/4 and 1/8 wherever the sum begins.
    assert rewards_to_go([None, *gains], 0.5, False, "absolute") == [0.0, 2.0, 0.0, 1.0, 0.5]
    assert rewards_to_go([None, *gains], 0.5, True, "absolute") == [0.0, 2.0 / 1.375, 0.0, 4.0 / 1.5, 4.0]
    assert rewards_to_go(gains, 0.0, False, "absolute") == [1.0, 0.0, 2.0, 4.0]


def pair_of_tokens() -> tuple[Data, Data]:
    # Teacher (1/2, 1/2), student (3/4, 1/4) at both positions; sampled are 0 and 1: gains log(2/3) and log 2.
    batch: Data = {
        "token_mask": arr([0, 1, 1]),
        "input_ids": np.array([[7, 0, 1]]),
        "teacher_logits": arr([[0, 0], [0, 0], [NAN, NAN]]),
    }
    return batch, {"logits": arr([[LOG3, 0], [LOG3, 0], [NAN, NAN]])}


def test_minillm_by_hand() -> None:
    batch, outputs = pair_of_tokens()
    first, second = math.log(2 / 3), LOG2
    plain: dict[str, Any] = {"single_step_weight": 0.0}
    # R = (mean of both, second), negated; then their plain sum; then each alone.
    assert minillm(batch, outputs, **plain) == near(-((first + second) / 2 + second) / 2)
    assert minillm(batch, outputs, length_normalization=False, **plain) == near(-(first + 2 * second) / 2)
    assert minillm(batch, outputs, gamma=0.0, **plain) == near(-(first + second) / 2)
    halved = -((first + 0.5 * second) / 1.5 + second) / 2
    assert minillm(batch, outputs, gamma=0.5, **plain) == near(halved)
    assert minillm(batch, outputs, gamma=0.5, single_step_weight=2.0) == near(halved + 2 * REVERSE)
    # An advantage of 1 for the first token; ratios 1 and e^1, the second clipped for its positive advantage.
    batch["advantages"] = arr([NAN, 1, 0])
    batch["prev_logprobs"] = arr([NAN, math.log(0.75), math.log(0.25) - 1])
    assert minillm(batch, outputs, gamma=0.0, **plain) == near(-(first + 1 + 1.2 * second) / 2)
    assert minillm(batch, outputs, gamma=0.0, ratio_clip_max=9.0, **plain) == near(-(first + 1 + math.e * second) / 2)
    # Everything the teacher and student say at temperature 2, but not the ratio.
    hot = {**batch, "teacher_logits": 2 * batch["teacher_logits"]}, {"logits": 2 * outputs["logits"]}
    hot[0]["prev_logprobs"] = arr([NAN, math.log(0.9), math.log(0.1) - 1])
    expected = -(first + 1 + 1.2 * second) / 2 + REVERSE
    assert minillm(*hot, gamma=0.0, temperature=2.0) == near(expected)


def test_minillm_with_padding_counted() -> None:
    batch, outputs = pair_of_tokens()
    first, second = math.log(2 / 3), LOG2
    # The second token is padding: it is in R of the first, in the divergence of both, and not a token of the policy.
    batch["token_mask"] = arr([0, 1, 0])
    assert minillm(batch, outputs, single_step_weight=0.0) == near(-first)
    assert minillm(batch, outputs, padding="counted", single_step_weight=0.0) == near(-(first + second) / 2)
    batch["global_valid_toks"] = np.array(4.0)
    assert minillm(batch, outputs, padding="counted") == near(-(first + second) / 2 / 4 + REVERSE)
    # What comes before the answer is no padding.
    batch["token_mask"] = arr([0, 0, 1])
    assert minillm(batch, outputs, padding="counted") == near(-second / 4 + REVERSE)


def test_minillm_reductions() -> None:
    batch, outputs = sampled(100)
    same = {**batch, "teacher_logits": outputs["logits"]}
    assert minillm(same, outputs) == near(ppo_clip(batch, outputs))
    batch["prev_logprobs"][:, 1:] = gathered(batch, outputs)
    on_policy = {name: field for name, field in batch.items() if name != "prev_logprobs"}
    assert minillm(on_policy, outputs, gamma=0.8) == near(minillm(batch, outputs, gamma=0.8))
    without = {name: field for name, field in batch.items() if name != "advantages"}
    zero = {**batch, "advantages": np.zeros((4, 6))}
    assert minillm(without, outputs) == near(minillm(zero, outputs))
    alone = minillm(batch, outputs, single_step_weight=0.0)
    assert minillm(batch, outputs) == near(alone + reverse_kl(batch, outputs))


def test_opd_by_hand() -> None:
    # lp -1 and -2 against -3 and -1/2: -(-2)(-1) = -2 and -(1.5)(-2) = 3.
    batch: Data = {"token_mask": arr([1, 1, 1]), "teacher_logprobs": arr([NAN, -3, -0.5])}
    outputs: Data = {"next_token_logprobs": arr([-1, -2])}
    assert opd_sampled(batch, outputs) == near(0.5)
    # Without rollout log-probs A = -2, 1.5: weights 1.5 and 1 + (1 - 2/3.5)/2.
    assert iw_opd(batch, outputs) == near((1.5 * -2 + (1.5 - 1 / 3.5) * 3) / 2)
    assert iw_opd(batch, outputs, gamma=0.0) == near(0.5)
    # Rollout log-probs -4 and -1/2: A = 1, 0; the second term is 0.
    batch["generation_logprobs"] = arr([NAN, -4, -0.5])
    assert iw_opd(batch, outputs) == near(1.5 / 2)
    # A teacher that agrees with the rollout: no advantage anywhere.
    batch["teacher_logprobs"] = batch["generation_logprobs"]
    assert iw_opd(batch, outputs) == near(0.0)


def test_iw_opd_sums_are_of_the_row() -> None:
    # Row 0: A = 1, (untrained), 3; row 1: A = 2. Weights 2, 2 - 1/4 and 2 at gamma 1; lp = -1.
    batch: Data = {
        "token_mask": arr([1, 1, 0, 1], [1, 0, 1, 0]),
        "teacher_logprobs": arr([0, -1, NAN, -2], [0, NAN, -3, NAN]),
        "generation_logprobs": arr([0, -2, NAN, -5], [0, NAN, -5, NAN]),
        "sample_mask": np.array([0.5, 1.0]),
    }
    outputs: Data = {"next_token_logprobs": arr([-1, NAN, -1], [NAN, -1, NAN])}
    assert iw_opd(batch, outputs, gamma=1.0) == near((0.5 * (2 + 1.75 * 3) + 4) / 2)


def test_self_distillation_by_hand() -> None:
    batch, outputs = pair_of_tokens()
    # Ratios 1/2 and 9, the second held at 2 (or 3).
    batch["prev_logprobs"] = arr([NAN, math.log(1.5), math.log(0.25 / 9)])
    assert sdft(batch, outputs) == near(1.25 * EVEN)
    assert sdft(batch, outputs, is_clip=3.0, alpha=1.0) == near(1.75 * REVERSE)
    # lp = log(3/4), log(1/4) against log(1/2): gaps log(3/2), -log 2.
    batch["teacher_logprobs"] = arr([NAN, -LOG2, -LOG2])
    distilled = (0.5 * math.log(1.5) * math.log(0.75) + 2 * -LOG2 * math.log(0.25)) / 2
    assert sdpo(batch, outputs) == near(distilled)
    # Advantages 1 and -1: ratio 1/2 is not clipped from below, -(1/2); ratio 9 of a loss stays 9.
    batch["advantages"] = arr([NAN, 1, -1])
    policy = (-0.5 + 9) / 2
    assert sdpo(batch, outputs, distillation_weight=0.25) == near(0.25 * distilled + 0.75 * policy)
    assert sdpo(batch, outputs, distillation_weight=0.0) == near(policy)
    # The exponent is held to 20 before the clip.
    batch["prev_logprobs"] = arr([NAN, -1e4, 1e4])
    assert sdft(batch, outputs, is_clip=1e12) == near((math.exp(20) + math.exp(-20)) / 2 * EVEN)


def test_rows_weigh_alike_in_self_distillation() -> None:
    batch, outputs = sampled(101)
    batch["prev_logprobs"][:, 1:] = gathered(batch, outputs)
    batch["token_mask"] = np.ones((4, 6))
    # At the old policy the weight is 1, and rows of equal length make it the token mean.
    for alpha in (0.0, 0.5, 1.0):
        assert sdft(batch, outputs, alpha=alpha) == near(generalized_jsd(batch, outputs, beta=alpha))
    assert sdpo(batch, outputs) == near(opd_sampled(batch, outputs))
    batch["generation_logprobs"] = batch["prev_logprobs"]
    assert iw_opd(batch, outputs, gamma=0.0) == near(opd_sampled(batch, outputs))
    batch["teacher_logprobs"] = batch["prev_logprobs"]
    batch["teacher_logits"] = outputs["logits"]
    for oracle in (opd_sampled, iw_opd, sdft, sdpo):
        assert oracle(batch, outputs) == near(0.0)


@pytest.mark.parametrize("oracle", ALL)
def test_shared_rules(oracle: Oracle) -> None:
    batch, outputs = sampled(102)
    check_token_rules(oracle, batch, outputs)
    # Only the ratios of the two last feel anything of the old policy, and settings reach every part.
    if oracle in (sdpo, minillm):
        settings: dict[str, Any] = {"distillation_weight": 0.3} if oracle is sdpo else {"gamma": 0.9}
        check_token_rules(oracle, batch, outputs, **settings)

"""Composites of a fixed make against numbers worked out by hand, and their laws."""

import math
from typing import Any

import numpy as np
import pytest

from .composite_presets import actor_critic_total, draft, mpo, rpo_nll
from .distillation_divergences import soft_ce
from .policy_gradient import grpo, ppo_clip
from .preference import dpo
from .preference_without_reference import cpo
from .shared_rules import check_token_rules, soiled
from .supervised import nll
from .test_oracles import LOG2, NAN, Data, Oracle, arr, near, random_tokens
from .test_oracles_more import SP1, defaults, log_ratios
from .value_clipping import value_clipped

LOG3 = math.log(3.0)


def test_preferences_with_an_nll_by_hand() -> None:
    # Log-ratios 2 and 0, x = 1; the chosen token's log-prob is -7.
    pair = log_ratios(2, 0)
    assert rpo_nll(*pair, beta=0.5) == near(SP1 - 1 + 7)
    assert rpo_nll(*pair, beta=0.5, alpha=0.25) == near(SP1 - 1 + 1.75)
    # bco_pair: r_w = 1, r_l = 0.
    assert mpo(*pair, beta=0.5) == near(0.8 * (SP1 - 1) + 0.2 * (SP1 - 1 + LOG2) + 7)
    weights: dict[str, float] = {"preference_weight": 2.0, "quality_weight": 3.0, "generation_weight": 0.5}
    assert mpo(*pair, beta=0.5, **weights) == near(2 * (SP1 - 1) + 3 * (SP1 - 1 + LOG2) + 3.5)


def test_averages_of_the_nll_by_hand() -> None:
    # Chosen rows: tokens of 1 and 3 in row 0, of 6 in row 2. Row means 2 and 6; token mean 10/3.
    lp = arr([-1, -3], [-3, -1], [-6, NAN], [-6, NAN])
    batch: Data = {"token_mask": arr([0, 1, 1], [0, 1, 1], [0, 1, 0], [0, 1, 0])}
    batch["reference_policy_logprobs"] = np.concatenate([np.full((4, 1), NAN), lp], axis=1)
    oracles: list[tuple[Oracle, float]] = [(rpo_nll, LOG2), (mpo, 1.2 * LOG2)]
    for oracle, rest in oracles:
        for weights, sequence, tokens in ((None, 4.0, 10 / 3), (arr(1, 1, 1, 0.5), 10 / 3, 2.8)):
            weighted = batch if weights is None else {**batch, "sample_mask": weights}
            assert oracle(weighted, {"next_token_logprobs": lp}) == near(rest + sequence)
            assert oracle(weighted, {"next_token_logprobs": lp}, nll_average="tokens") == near(rest + tokens)


def test_actor_critic_by_hand() -> None:
    # Ratios 1, advantages 2 and -1; errors 1 and 2; uniform over 2 tokens, d = log 2.
    lp = np.full((1, 3), -LOG2)
    batch: Data = {
        "input_ids": np.zeros((1, 3), dtype=np.int64),
        "token_mask": np.ones((1, 3)),
        "prev_logprobs": lp,
        "reference_policy_logprobs": lp - LOG2,
        "advantages": arr([NAN, 2, -1]),
        "returns": arr([NAN, 2, 1]),
        "values": arr([NAN, 1, 2.5]),
    }
    outputs: Data = {"logits": np.zeros((1, 3, 2)), "values": arr([NAN, 1, 3])}
    assert actor_critic_total(batch, outputs) == near(-0.5 + 0.5 * 1.25)
    assert actor_critic_total(batch, outputs, entropy_coefficient=0.2, kl_coefficient=0.1) == near(
        0.125 - 0.2 * LOG2 + 0.1 * (LOG2 - 0.5)
    )
    assert actor_critic_total(batch, {"logits": outputs["logits"]}, value_coefficient=0.0) == near(-0.5)
    # Clipped to 2.7: the error 2 is the larger one.
    config: dict[str, Any] = {"value": {"type": "value_clipped", "scale": 3.0}, "policy": {"type": "nll"}}
    assert actor_critic_total(batch, outputs, **config) == near(LOG2 + 0.5 * 3 * 1.25)
    with pytest.raises(ValueError, match="unknown component"):
        actor_critic_total(batch, outputs, policy={"type": "none"})


def test_draft_by_hand() -> None:
    # The policy says (1/2, 1/2), then (3/4, 1/4) of tokens 0 and 1.
    batch: Data = {"input_ids": np.array([[1, 0, 1]]), "token_mask": arr([0, 1, 1])}
    outputs: Data = {"logits": arr([[0, 0], [LOG3, 0], [NAN, NAN]]), "draft_logits": arr([[0, 0], [0, 0], [NAN, NAN]])}
    alone = 1.5 * LOG2
    assert nll(batch, outputs) == near(alone)
    assert draft(batch, outputs) == near(alone + LOG2)
    assert draft(batch, outputs, draft_weight=0.3) == near(alone + 0.3 * LOG2)
    assert draft(batch, outputs, ahead=1) == near(alone + LOG2 / 2)
    assert draft(batch, outputs, ahead=2) == near(alone)
    assert draft(batch, {"logits": outputs["logits"]}, draft_weight=0.0) == near(alone)
    # The draft model's first position says (3/4, 1/4) as well; at temperature 2 from twice the logits.
    outputs["draft_logits"][0, 0] = [LOG3, 0]
    entropy = 2 * LOG2 - 0.75 * LOG3
    assert draft(batch, outputs, ahead=1) == near(alone + entropy / 2)
    doubled = {name: 2 * value for name, value in outputs.items()}
    assert draft(batch, doubled, ahead=1, temperature=2.0) == near(nll(batch, doubled) + entropy / 2)


def test_reductions() -> None:
    batch, outputs = random_tokens(60)
    assert rpo_nll(batch, outputs, alpha=0.0, beta=0.4) == near(dpo(batch, outputs, beta=0.4))
    assert mpo(batch, outputs, preference_weight=1.0, quality_weight=0.0, generation_weight=0.6) == near(
        rpo_nll(batch, outputs, alpha=0.6)
    )
    for average in ("sequence", "tokens"):
        constant = {**batch, "reference_policy_logprobs": np.zeros((4, 6))}
        assert rpo_nll(constant, outputs, alpha=0.7, nll_average=average) == near(
            cpo(batch, outputs, alpha=0.7, nll_average=average)
        )
    assert actor_critic_total(batch, outputs, value_coefficient=0.0) == near(ppo_clip(batch, outputs))
    penalised = actor_critic_total(batch, outputs, value_coefficient=0.0, kl_coefficient=0.3)
    assert penalised == near(
        grpo(batch, outputs, aggregation="token_mean", reference_policy_kl_penalty=0.3, kl_type="k3")
    )
    student = {**outputs, "draft_logits": batch["teacher_logits"]}
    taught = soft_ce({**batch, "teacher_logits": outputs["logits"]}, {"logits": batch["teacher_logits"]})
    assert draft(batch, student, draft_weight=0.3) == near(nll(batch, outputs) + 0.3 * taught)
    batch["values"] = batch["returns"] + 0.1
    config = {"policy": {"type": "ppo_clip", "ratio_clip_min": 0.5}, "value": {"type": "value_clipped"}}
    assert actor_critic_total(batch, outputs, **config) == near(
        ppo_clip(batch, outputs, ratio_clip_min=0.5) + 0.5 * value_clipped(batch, outputs)
    )


@pytest.mark.parametrize(
    ("oracle", "config"),
    [
        (rpo_nll, {}),
        (mpo, {}),
        (actor_critic_total, {"entropy_coefficient": 0.1, "kl_coefficient": 0.1}),
        (draft, {"policy": {"type": "ppo_clip"}}),
    ],
)
def test_shared_rules(oracle: Oracle, config: dict[str, Any]) -> None:
    batch, outputs = random_tokens(61)
    if oracle is draft:
        outputs["draft_logits"] = batch["teacher_logits"]
    if oracle in (rpo_nll, mpo):
        value = oracle(batch, outputs, nll_average="tokens")
        assert oracle(*soiled(batch, outputs, 2), nll_average="tokens") == near(value)
    check_token_rules(oracle, batch, outputs, rows=2, **config)


def test_default_settings() -> None:
    assert defaults(rpo_nll) == {"beta": 0.1, "alpha": 1.0, "nll_average": "sequence"}
    weights = {"preference_weight": 0.8, "quality_weight": 0.2, "generation_weight": 1.0}
    assert defaults(mpo) == {"beta": 0.1, **weights, "nll_average": "sequence"}

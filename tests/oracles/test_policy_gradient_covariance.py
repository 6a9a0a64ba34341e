"""The oracles of batch-wide and sequence-wide policy losses: hand-worked numbers, neutral points, reductions, rules."""

import math
from typing import Any

import numpy as np
import pytest

from .policy_gradient import ppo_clip
from .policy_gradient_covariance import (
    a2po,
    a2po_value,
    clip_cov,
    covariances,
    gpg,
    kl_cov,
    rloo,
    selected_count,
    vapo_nll,
)
from .policy_gradient_tokens import on_policy, reinforce
from .shared_rules import soiled
from .supervised import nll
from .test_oracles import LOG2, NAN, Data, Oracle, arr, near, random_tokens
from .test_oracles_more import defaults, log_ratios, permuted
from .test_oracles_more_policy import near_array, on_policy_case, random_case, ratios

LOG3 = math.log(3.0)


def random_covered(seed: int) -> tuple[Data, Data]:
    batch, outputs = random_case(seed)
    rng = np.random.default_rng(seed)
    batch |= {
        "rewards": np.array([1.0, -0.5, 2.0, 0.0]),
        "v_star": rng.normal(size=4),
        "selection_noise": rng.random((4, 6)),
    }
    return batch, outputs


def test_rloo_by_hand() -> None:
    # Ratios 2, 1/4 of A = 1, 3: s = 1/2, A_b = 2: -2 s against -2 0.8. Ratio 3 of A = -1 and an untrained token: 3.
    batch, outputs = ratios(arr([2.0, 0.25], [3.0, 7.0]), arr([1, 3], [-1, NAN]))
    batch["token_mask"][1, 2] = 0.0
    assert rloo(batch, outputs) == near((-1 + 3) / 2)
    batch["advantages"] = -batch["advantages"]
    assert rloo(batch, outputs) == near((2 * 0.8 - 1.2) / 2)
    assert rloo(batch, outputs, ratio_clip_min=0.4, ratio_clip_max=1.0) == near((2 * 0.6 - 2) / 2)
    # Tokens: A = -1, -3, 1 at ratios 2, 1/4, 3.
    assert rloo(batch, outputs, ratio_level="token") == near((2 + 3 * 0.8 - 1.2) / 3)
    assert rloo({**batch, "sample_mask": arr(0.5, 2)}, outputs) == near((0.5 * 1.6 - 2 * 1.2) / 2.5)
    with pytest.raises(ValueError, match="ratio_level"):
        rloo(batch, outputs, ratio_level="row")


def test_rloo_reductions() -> None:
    # One trained token: ppo_clip by rows.
    batch, outputs = ratios(arr([1.7], [0.3], [1.1], [0.6]), arr([1.0], [-2.0], [0.5], [1.5]))
    assert rloo(batch, outputs) == near(ppo_clip(batch, outputs))
    batch, outputs = on_policy_case(70)
    assert rloo(batch, outputs) == near(on_policy(batch, outputs, aggregation="seq_mean_token_mean"))
    batch, outputs = random_case(71)
    assert rloo(batch, outputs, ratio_level="token") == near(ppo_clip(batch, outputs))
    configs: list[dict[str, Any]] = [{}, {"aggregation": "fixed", "max_length": 5.0}]
    for config in configs:
        assert gpg(batch, outputs, **config) == near(reinforce(batch, outputs, **config))


def cov_case() -> tuple[Data, Data]:
    """A = 3, 1, -1, -3 (mean 0) at lp = -1, -2, -4, -5 (mean -3): cov = 6, 1, 1, 6; lp_old = -3."""
    batch, outputs = ratios(np.ones((2, 2)), arr([3, 1], [-1, -3]))
    outputs["next_token_logprobs"] = arr([-1, -2], [-4, -5])
    return batch, outputs


def test_covariances_by_hand() -> None:
    batch, outputs = cov_case()
    assert covariances(batch, outputs) == {(0, 0): near(6), (0, 1): near(1), (1, 0): near(1), (1, 1): near(6)}
    # Float weights of the rows do not enter; an absent row does.
    assert covariances({**batch, "sample_mask": arr(2, 0.5)}, outputs)[1, 1] == near(6)
    assert covariances({**batch, "sample_mask": arr(2, 0)}, outputs) == {(0, 0): near(0.5), (0, 1): near(0.5)}
    assert covariances({**batch, "sample_mask": arr(0, 0)}, outputs) == {}
    assert [selected_count(ratio, 10) for ratio in (0.0, 2e-4, 0.1, 0.11, 1.0)] == [1, 1, 1, 2, 10]


def test_kl_cov_by_hand() -> None:
    # -A r: -3 e^2, -e, e^-1, 3 e^-2; delta = 2, 1, -1, -2.
    batch, outputs = cov_case()
    e = math.e
    plain = (-3 * e**2 - e + 1 / e + 3 / e**2) / 4
    # The first of the two highest; then both; then the earlier 1 as well, then all.
    for ratio, penalty in ((0.0, 2), (0.25, 2), (0.5, 4), (0.51, 5), (0.75, 5), (1.0, 6)):
        assert kl_cov(batch, outputs, kl_cov_ratio=ratio, ppo_kl_coef=0.5) == near(plain + 0.5 * penalty / 4)
    assert kl_cov(batch, outputs) == near(plain + 2 / 4)
    assert kl_cov(batch, outputs, ppo_kl_coef=0.0) == near(plain)
    # Row weights 1 and 1/2 enter the mean alone.
    batch["sample_mask"] = arr(1, 0.5)
    weighted = (-3 * e**2 - e + 0.5 / e + 1.5 / e**2) / 3
    assert kl_cov(batch, outputs, kl_cov_ratio=0.5) == near(weighted + (2 + 0.5 * 2) / 3)


def test_clip_cov_by_hand() -> None:
    # Ratios e^2, e, e^-1, e^-2 of A = 3, 1, -1, -3 are all clipped at 0.2: no candidates. Wide bounds: none clipped.
    batch, outputs = cov_case()
    batch["selection_noise"] = arr([NAN, 0.9, 0.1], [NAN, 0.5, 0.4])
    assert clip_cov(batch, outputs, clip_cov_lb=0.0, clip_cov_ub=9.0) == near(ppo_clip(batch, outputs))
    wide: dict[str, Any] = {"ratio_clip_min": 0.99, "ratio_clip_max": 9.0}
    e = math.e
    values = [-3 * e**2, -e, 1 / e, 3 / e**2]
    # cov 6, 1, 1, 6: both bounds are strict.
    assert clip_cov(batch, outputs, **wide) == near(sum(values) / 4)
    assert clip_cov(batch, outputs, clip_cov_ub=6.0, **wide) == near(sum(values) / 4)
    # cov 6 alone: of noise 0.9 and 0.4 the second goes; at ratio 0.5 both; more than the candidates at 1.
    assert clip_cov(batch, outputs, clip_cov_ub=7.0, **wide) == near(sum(values[:3]) / 4)
    for ratio in (0.26, 0.5, 1.0):
        assert clip_cov(batch, outputs, clip_cov_ub=7.0, clip_cov_ratio=ratio, **wide) == near(sum(values[1:3]) / 4)
    # All four: noise 0.1 first, then 0.4, 0.5.
    low: dict[str, Any] = {"clip_cov_lb": 0.0, "clip_cov_ub": 7.0, **wide}
    assert clip_cov(batch, outputs, **low) == near((sum(values) - values[1]) / 4)
    assert clip_cov(batch, outputs, clip_cov_ratio=0.75, **low) == near(values[0] / 4)
    # Equal noise: the earlier first.
    even = {**batch, "selection_noise": np.zeros((2, 3))}
    assert clip_cov(even, outputs, clip_cov_ratio=0.5, **low) == near(sum(values[2:]) / 4)
    # The noise is needed only to choose.
    del batch["selection_noise"]
    assert clip_cov(batch, outputs, clip_cov_ratio=1.0, **low) == 0.0
    with pytest.raises(ValueError, match="selection_noise"):
        clip_cov(batch, outputs, **low)


def test_clip_cov_leaves_clipped_tokens_alone() -> None:
    # Upper bound e^1.5: the first token (A = 3, ratio e^2) is clipped and keeps its term; the fourth goes.
    batch, outputs = cov_case()
    e = math.e
    config: dict[str, Any] = {"ratio_clip_min": 0.99, "ratio_clip_max": e**1.5 - 1, "clip_cov_ub": 7.0}
    assert clip_cov(batch, outputs, clip_cov_ratio=1.0, **config) == near((-3 * e**1.5 - e + 1 / e) / 4)
    # A token outside the clip range on its harmless side is not clipped: A = 1 at ratio 1/e, A = -1 at ratio e.
    batch, outputs = ratios(arr([1 / e, e]), arr([1.0, -1.0]))
    assert covariances(batch, outputs) == {(0, 0): near(-1), (0, 1): near(-1)}
    assert clip_cov(batch, outputs, clip_cov_lb=-2.0, clip_cov_ratio=1.0) == 0.0


def test_a2po_by_hand() -> None:
    # h = 2000, 500; rewards - v = 1, 2: (2 - 1)^2, (0.5 - 2)^2.
    batch, outputs = log_ratios(2000, 500, rewards=(3, 1))
    batch["v_star"] = arr(2, -1)
    assert a2po(batch, outputs) == near((1 + 2.25) / 2)
    assert a2po(batch, outputs, beta=5e-4) == near((0 + 1.75**2) / 2)
    assert a2po({**batch, "sample_mask": arr(3, 0.5)}, outputs) == near((3 + 1.125) / 3.5)
    same = {**batch, "reference_policy_logprobs": np.zeros((2, 2))}
    assert a2po(same, {"next_token_logprobs": np.zeros((2, 1))}) == near((1 + 4) / 2)


def test_a2po_value_by_hand() -> None:
    # Rewards 0 and (log 3)/2 over beta1 = 1/2: (log 4 - log 2)/2.
    assert a2po_value(arr(0, LOG3 / 2)) == near(LOG2 / 2)
    assert a2po_value(arr([0, LOG3], [0, LOG3]), beta1=1.0) == near_array(arr(LOG2, LOG2))
    assert a2po_value(np.full((2, 3, 4), 1.25)) == near_array(np.full((2, 3), 1.25))
    assert a2po_value(arr(1e4, 0)) == near(1e4 - LOG2 / 2)
    samples = np.random.default_rng(0).normal(size=9)
    assert samples.mean() < a2po_value(samples) < samples.max()
    assert a2po_value(samples, beta1=1e-3) == pytest.approx(samples.max(), abs=3e-3)
    assert a2po_value(samples, beta1=1e5) == pytest.approx(samples.mean(), abs=1e-4)


def test_vapo_nll_by_hand() -> None:
    # Rows of reward 1, 0, -1, 2 with -lp sums 1 + 3, .., .., 5 over 2 and 1 trained tokens.
    batch: Data = {"token_mask": np.ones((4, 3)), "rewards": arr(1, 0, -1, 2)}
    batch["token_mask"][3, 1] = 0.0
    outputs: Data = {"next_token_logprobs": arr([-1, -3], [-7, -7], [-7, -7], [NAN, -5])}
    assert vapo_nll(batch, outputs) == near(3.0)
    assert vapo_nll(batch, outputs, coefficient=0.5) == near(1.5)
    assert vapo_nll({**batch, "sample_mask": arr(1, 1, 1, 4)}, outputs) == near(4.0)
    assert vapo_nll({**batch, "global_correct_toks": np.array(6.0)}, outputs) == near(1.5)
    assert vapo_nll({**batch, "global_correct_toks": np.array(0.25)}, outputs) == near(9.0)
    assert vapo_nll({**batch, "rewards": -(batch["rewards"] ** 2)}, outputs) == 0.0
    assert vapo_nll({**batch, "rewards": np.ones(4)}, outputs) == near(nll(batch, outputs))
    # The tokens of all rows are no divisor here.
    assert vapo_nll({**batch, "global_valid_toks": np.array(99.0)}, outputs) == near(3.0)


ALL: list[tuple[Oracle, dict[str, Any]]] = [
    (rloo, {}),
    (rloo, {"ratio_level": "token"}),
    (gpg, {"aggregation": "seq_mean_token_sum"}),
    (clip_cov, {"clip_cov_lb": -0.5, "clip_cov_ratio": 0.2}),
    (kl_cov, {"kl_cov_ratio": 0.3}),
    (a2po, {"beta": 0.1}),
    (vapo_nll, {}),
]


@pytest.mark.parametrize(("oracle", "config"), ALL)
def test_losses_share_their_rules(oracle: Oracle, config: dict[str, Any]) -> None:
    batch, outputs = random_covered(72)
    value = oracle(batch, outputs, **config)
    assert isinstance(value, float)
    assert oracle(batch, {"logits": outputs["logits"]}, **config) == near(value)
    assert oracle({k: v for k, v in batch.items() if k != "sample_mask"}, outputs, **config) == near(value)
    rows = [2, 0, 3, 1]
    assert oracle(permuted(batch, rows), permuted(outputs, rows), **config) == near(value)
    assert oracle(*soiled(batch, {k: outputs[k] for k in ("next_token_logprobs",)}, absent_rows=2), **config) == near(
        value
    )
    assert oracle({**batch, "sample_mask": np.zeros(4)}, outputs, **config) == 0.0
    if oracle in (rloo, gpg):
        for scale in (0.0, 2.5):
            assert oracle({**batch, "advantages": scale * batch["advantages"]}, outputs, **config) == near(
                scale * value
            )


def test_zero_advantages() -> None:
    # kl_cov keeps its penalty: cov is 0 everywhere, and the first token is taken.
    batch = random_tokens(73)[0]
    batch["advantages"][:] = 0.0
    batch["token_mask"][:] = 1.0
    lp: Data = {"next_token_logprobs": batch["prev_logprobs"][:, 1:] + 0.5}
    assert clip_cov(batch, lp) == 0.0
    assert kl_cov(batch, lp, ppo_kl_coef=3.0) == near(1.5 / 20)


def test_default_settings() -> None:
    clip = {"ratio_clip_min": 0.2, "ratio_clip_max": 0.2}
    assert defaults(rloo) == {"ratio_level": "sequence", **clip}
    assert defaults(gpg) == {"aggregation": "token_mean", "max_length": None}
    assert defaults(clip_cov) == {**clip, "clip_cov_ratio": 2e-4, "clip_cov_lb": 1.0, "clip_cov_ub": 5.0}
    assert defaults(kl_cov) == {"kl_cov_ratio": 2e-4, "ppo_kl_coef": 1.0}
    assert defaults(a2po) == {"beta": 1e-3}
    assert defaults(vapo_nll) == {"coefficient": 1.0}

"""The further policy-gradient and value oracles against numbers worked out by hand, anchors and reductions."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from .policy_gradient import grpo, ppo_clip
from .policy_gradient_sequences import gmpo, gspo, gspo_token, gspo_token_gradient, luspo, vespo, vespo_gradient
from .policy_gradient_tokens import (
    bnpo,
    cispo,
    cispo_gradient,
    clipped_weight,
    dapo,
    dr_grpo,
    dual_clip,
    on_policy,
    on_policy_gradient,
    reinforce,
    sapo,
    sapo_gradient,
)
from .test_oracles import LOG2, NAN, Data, Oracle, arr, gathered, near, random_tokens
from .test_oracles_more import defaults
from .value import value_mse
from .value_clipping import value_clipped

SIG1 = 0.7310585786300049  # sigma(1)
Gradient = Callable[..., NDArray[Any]]


def ratios(ratio: NDArray[Any], advantages: NDArray[Any]) -> tuple[Data, Data]:
    """Fully trained rows with these ratios and advantages, lp_old = -3."""
    rows, tokens = ratio.shape
    hidden = np.full((rows, 1), NAN)
    batch: Data = {
        "token_mask": np.ones((rows, tokens + 1)),
        "prev_logprobs": np.concatenate([hidden, np.full((rows, tokens), -3.0)], axis=1),
        "advantages": np.concatenate([hidden, advantages], axis=1),
    }
    return batch, {"next_token_logprobs": np.log(ratio) - 3.0}


def four() -> tuple[Data, Data]:
    return ratios(arr([1.5, 0.5, 0.5, 5.0]), arr([1, 1, -1, -1]))


def random_case(seed: int) -> tuple[Data, Data]:
    """Random tokens with log-probs in the outputs, near the old ones."""
    batch, outputs = random_tokens(seed)
    policy = gathered(batch, outputs)
    noise = np.random.default_rng(seed).normal(scale=0.3, size=policy.shape)
    batch["prev_logprobs"][:, 1:] = policy + noise
    batch["values"] = outputs["values"] + np.random.default_rng(seed).normal(scale=0.3, size=outputs["values"].shape)
    return batch, {**outputs, "next_token_logprobs": policy}


def on_policy_case(seed: int) -> tuple[Data, Data]:
    """A batch where the old policy is the policy."""
    batch, outputs = random_case(seed)
    batch["prev_logprobs"][:, 1:] = outputs["next_token_logprobs"]
    return batch, outputs


# --- one ratio per token ----------------------------------------------------------------------------------------


def test_clipped_losses_by_hand() -> None:
    # ppo_clip at [0.8, 1.2]: -1.2, -0.5, 0.8, 5. Dual clip at 3: the last is 3. Upper bound 1.28: the first is -1.28.
    batch, outputs = four()
    assert dual_clip(batch, outputs) == near((-1.2 - 0.5 + 0.8 + 3.0) / 4)
    assert dual_clip(batch, outputs, ratio_clip_c=4.0) == near((-1.2 - 0.5 + 0.8 + 4.0) / 4)
    assert dapo(batch, outputs) == near((-1.28 - 0.5 + 0.8 + 5.0) / 4)
    assert dr_grpo(batch, outputs, max_length=10) == near(4.1 / 10)
    assert dr_grpo({**batch, "global_valid_seqs": np.array(2.0)}, outputs, max_length=10) == near(4.1 / 20)
    assert bnpo(batch, outputs) == near(4.1 / 4)
    counts: Data = {"global_valid_toks": np.array(40.0), "global_valid_seqs": np.array(9.0)}
    assert bnpo(batch | counts, outputs) == near(4.1 / 4)
    assert dapo(batch | counts, outputs) == near((-1.28 - 0.5 + 0.8 + 5.0) / 40)
    # One row: bnpo is grpo without its penalty.
    assert bnpo(batch, outputs) == near(grpo(batch, outputs, reference_policy_kl_penalty=0.0))
    assert dual_clip(batch, outputs, ratio_clip_c=1e9) == near(ppo_clip(batch, outputs))


def test_reinforce_by_hand() -> None:
    # -A lp: 2 and -9 in row 0, 4 in row 1; token mean -3/3, row means (-3.5 + 4)/2, sums (-7 + 4)/2, fixed -3/(2*5).
    batch: Data = {"token_mask": np.ones((2, 3)), "advantages": arr([NAN, 2, -3], [NAN, 4, 0])}
    batch["token_mask"][1, 2] = 0.0
    outputs: Data = {"next_token_logprobs": arr([-1, -3], [-1, NAN])}
    assert reinforce(batch, outputs) == near(-1.0)
    assert reinforce(batch, outputs, aggregation="seq_mean_token_mean") == near(0.25)
    assert reinforce(batch, outputs, aggregation="seq_mean_token_sum") == near(-1.5)
    assert reinforce(batch, outputs, aggregation="fixed", max_length=5) == near(-0.3)
    # -A: -2 + 3 - 4 over 3 tokens; the gradient per token is -A over 3.
    assert on_policy(batch, outputs) == near(-1.0)
    assert on_policy(batch, {}) == near(-1.0)
    assert on_policy_gradient(batch, outputs) == near_array(arr([-2, 3], [-4, 0]) / 3)
    assert on_policy_gradient(batch, outputs, aggregation="seq_mean_token_mean") == near_array(
        arr([-0.5, 0.75], [-2, 0])
    )
    assert on_policy_gradient(batch, outputs, aggregation="fixed", max_length=5) == near_array(
        arr([-0.2, 0.3], [-0.4, 0])
    )
    batch["sample_mask"] = np.array([1.0, 0.5])
    assert on_policy_gradient(batch, outputs) == near_array(arr([-2, 3], [-2, 0]) / 2.5)
    with pytest.raises(ValueError, match="aggregation"):
        on_policy_gradient(batch, outputs, aggregation="fixed")


def near_array(values: NDArray[Any]) -> Any:
    return pytest.approx(values, rel=1e-12, abs=1e-12)


def test_cispo_by_hand() -> None:
    # Weights 1.2, 0.8, 0.8, 1.2; lp = log r - 3.
    batch, outputs = four()
    lp = np.log([1.5, 0.5, 0.5, 5.0]) - 3.0
    assert cispo(batch, outputs) == near((-1.2 * lp[0] - 0.8 * lp[1] + 0.8 * lp[2] + 1.2 * lp[3]) / 4)
    assert cispo_gradient(batch, outputs) == near_array(arr([-1.2, -0.8, 0.8, 1.2]) / 4)
    assert cispo_gradient(batch, outputs, ratio_clip_min=1.0, ratio_clip_max=5.0) == near_array(
        arr([-1.5, -0.5, 0.5, 5.0]) / 4
    )


def test_sapo_by_hand() -> None:
    # r = 2 at tau 1: f = 4 sigma(1), -A f = -8 sigma(1), slope -A r 4 s (1-s) = -16 s (1-s).
    batch, outputs = ratios(arr([2.0]), arr([2.0]))
    assert sapo(batch, outputs) == near(-8 * SIG1)
    assert sapo_gradient(batch, outputs) == near_array(arr([-16 * SIG1 * (1 - SIG1)]))
    # A < 0 takes tau_neg: r = 1/2, tau = 2: sigma(-1), f = 2 (1 - sigma(1)).
    batch, outputs = ratios(arr([0.5]), arr([-1.0]))
    assert sapo(batch, outputs, tau_neg=2.0) == near(2 * (1 - SIG1))
    assert sapo_gradient(batch, outputs, tau_neg=2.0) == near_array(arr([2 * SIG1 * (1 - SIG1)]))
    # Far off, the value is at its bound and the slope is 0.
    batch, outputs = ratios(arr([2.0]), arr([1.0]))
    outputs["next_token_logprobs"][:] = 900.0
    assert sapo(batch, outputs) == near(-4.0)
    assert sapo_gradient(batch, outputs) == near_array(arr([0.0]))


# --- one ratio per sequence -------------------------------------------------------------------------------------


def test_gspo_by_hand() -> None:
    # Ratios 2 and 8: s = 4. Clip at [0.5, 3]: A = 1 gives -3; A = -1 gives 4; mean 0.5, sum 1.
    batch, outputs = ratios(arr([2.0, 8.0]), arr([1, -1]))
    config = {"ratio_clip_min": 0.5, "ratio_clip_max": 2.0}
    for oracle in (gspo, gspo_token):
        assert oracle(batch, outputs, **config) == near(0.5)
    assert luspo(batch, outputs, **config) == near(1.0)
    # Slope: 0 where clipped, else -A s, over n = 2 tokens of S = 1 rows.
    assert gspo_token_gradient(batch, outputs, **config) == near_array(arr([0, 2.0]))
    # Ratios 1/2 and 1/8: s = 1/4, below 1/2: A = 1 gives -1/4, A = -1 is clipped to 1/2.
    batch, outputs = ratios(arr([0.5, 0.125]), arr([1, -1]))
    assert gspo(batch, outputs, **config) == near(0.125)
    assert gspo_token_gradient(batch, outputs, **config) == near_array(arr([-0.125, 0]))
    # The defaults are 3e-4 and 4e-4.
    batch, outputs = ratios(arr([2.0, 8.0]), arr([1, 1]))
    assert gspo(batch, outputs) == near(-1.0004)
    batch, outputs = ratios(arr([0.5, 0.125]), arr([-1, -1]))
    assert luspo(batch, outputs) == near(2 * 0.9997)


def test_gspo_token_gradient_is_that_of_gspo_for_a_constant_advantage() -> None:
    batch, outputs = random_case(20)
    batch["advantages"][:] = np.array([[1.5], [-0.5], [0.25], [-2.0]])
    config = {"ratio_clip_min": 5.0, "ratio_clip_max": 5.0}
    assert gspo_token_gradient(batch, outputs, **config) == near_numeric(gspo, batch, outputs, config)
    batch["advantages"][:] = np.random.default_rng(0).normal(size=(4, 6))
    assert gspo_token_gradient(batch, outputs, **config) != near_numeric(gspo, batch, outputs, config)


def near_numeric(oracle: Oracle, batch: Data, outputs: Data, config: dict[str, Any]) -> Any:
    """Central differences of a value."""
    numeric = np.zeros_like(outputs["next_token_logprobs"])
    for index in np.ndindex(*numeric.shape):
        sides = []
        for step in (1e-5, -1e-5):
            moved = outputs["next_token_logprobs"].copy()
            moved[index] += step
            sides.append(oracle(batch, {"next_token_logprobs": moved}, **config))
        numeric[index] = (sides[0] - sides[1]) / 2e-5
    return pytest.approx(numeric, abs=1e-8, rel=1e-6)


def test_sapo_gradient_is_the_slope_of_its_value() -> None:
    batch, outputs = random_case(21)
    assert sapo_gradient(batch, outputs) == near_numeric(sapo, batch, outputs, {})


def test_vespo_by_hand() -> None:
    # Ratios 2 and 1/4: W = 1/2. A >= 0: phi = e^{3 + 2 log(1/2) - 3/2} = e^{3/2}/4; A < 0: e^{2 - 1}/8.
    batch, outputs = ratios(arr([2.0, 0.25]), arr([2, -3]))
    lp = np.log([2.0, 0.25]) - 3.0
    up, down = math.exp(1.5) / 4, math.e / 8
    assert vespo(batch, outputs) == near((-2 * up * lp[0] + 3 * down * lp[1]) / 2)
    assert vespo_gradient(batch, outputs) == near_array(arr([-2 * up, 3 * down]) / 2)
    assert vespo_gradient(batch, outputs, k_pos=0.0, lambda_pos=0.0, k_neg=1.0, lambda_neg=0.0) == near_array(
        arr([-2, 1.5]) / 2
    )
    # Log-ratios of 20.5 and -30 are clamped to 20 and -20 before the sum: W = 1, phi = 1.
    batch, outputs = ratios(arr([1.0, 1.0]), arr([2, -3]))
    outputs["next_token_logprobs"] += arr([20.5, -30.0])
    assert vespo_gradient(batch, outputs) == near_array(arr([-1, 1.5]))
    # Two of -20: W = 1e-8, phi = e^{3 - 3e-8} 1e-16; two of 20: W = e^20 and phi is 0.
    batch["advantages"][:, 1:] = 1.0
    outputs["next_token_logprobs"][:] = -23.0
    phi = math.exp(3 - 3e-8) * 1e-16
    assert vespo_gradient(batch, outputs) == pytest.approx(arr([-phi, -phi]) / 2, rel=1e-9, abs=0)
    outputs["next_token_logprobs"][:] = 17.0
    assert vespo_gradient(batch, outputs) == near_array(arr([0, 0]))


def test_vespo_with_the_ratio_to_the_generating_policy() -> None:
    # W = 1/2 without it; k = 1 and lambda = 0 make phi = W.
    batch, outputs = ratios(arr([2.0, 0.25]), arr([2, -3]))
    plain: dict[str, Any] = {"k_pos": 1.0, "lambda_pos": 0.0, "k_neg": 1.0, "lambda_neg": 0.0}
    for factors, mode, is_max, expected in (
        ([3.0, 0.5], "token_truncate", 4.0, 0.5 * 3 * 0.5),
        ([3.0, 0.5], "token_truncate", 2.0, 0.5 * 2 * 0.5),
        ([3.0, 0.5], "token_mask", 3.0 + 1e-9, 0.5 * 3 * 0.5),
        ([4.0, 16.0], "token_mask", 8.0, 1e-8 * 2),
        ([1e-12, 16.0], "token_truncate", 8.0, 1e-8 * 4),
        ([1e12, 1.0], "token_truncate", 1e30, 0.5 * math.exp(20.0)),
        ([3.0, 0.5], "none", 2.0, 0.5),
    ):
        batch["generation_logprobs"] = batch["prev_logprobs"] - np.log([[1.0, *factors]])
        gradient = vespo_gradient(batch, outputs, importance_sampling=mode, is_max=is_max, **plain)
        assert gradient == pytest.approx(np.array([[-2, 3]]) * expected / 2, rel=1e-9, abs=0)
    with pytest.raises(ValueError, match="unknown importance_sampling 'row'"):
        vespo(batch, outputs, importance_sampling="row")


def test_gmpo_by_hand() -> None:
    # A = 1: log-ratios log 2 and -1 are min(log 2, 0.4) and -1: exp(-0.3). A = -2: log 2 and max(-1, -0.4).
    batch, outputs = ratios(arr([2.0, math.exp(-1)]), arr([1, 1]))
    assert gmpo(batch, outputs) == near(-math.exp(-0.3))
    batch["advantages"][:, 1:] = -2.0
    assert gmpo(batch, outputs) == near(2 * math.exp((LOG2 - 0.4) / 2))
    # Mixed signs, mean advantage 1/2: the A = 0 token is not clipped.
    batch["advantages"][:, 1:] = arr([1, 0])
    assert gmpo(batch, outputs) == near(-0.5 * math.exp(-0.3))
    batch["advantages"][:, 1:] = arr([0, 1])
    assert gmpo(batch, outputs) == near(-0.5 * math.exp((LOG2 - 1) / 2))
    # Two rows, the second without a trained token: half.
    batch, outputs = ratios(arr([1.0], [1.0]), arr([3.0], [NAN]))
    batch["token_mask"][1] = arr([1, 0])
    assert gmpo(batch, outputs) == near(-1.5)
    # Of weight 0 it is absent, unless all rows there are count, whatever number is given for the whole batch.
    batch["sample_mask"] = arr(1, 0)
    assert gmpo(batch, outputs) == near(-3)
    batch["global_valid_seqs"] = np.array(6.0)
    assert gmpo(batch, outputs) == near(-0.5)
    assert gmpo(batch, outputs, divisor="rows") == near(-1.5)
    with pytest.raises(ValueError, match="unknown divisor 'row'"):
        gmpo(batch, outputs, divisor="row")


def test_one_token_reductions() -> None:
    ratio, advantage = arr([1.7], [0.3], [1.1], [0.6]), arr([1.0], [-2.0], [0.5], [1.5])
    batch, outputs = ratios(ratio, advantage)
    clip: dict[str, Any] = {"ratio_clip_min": 0.2, "ratio_clip_max": 0.3}
    for oracle in (gspo, gspo_token, luspo):
        assert oracle(batch, outputs, **clip) == near(ppo_clip(batch, outputs, **clip))
    bounds: dict[str, Any] = {"ratio_clip_min": 1 - math.exp(-0.4), "ratio_clip_max": math.exp(0.4) - 1}
    assert gmpo(batch, outputs) == near(ppo_clip(batch, outputs, **bounds))


def test_gmpo_without_clipping_is_gspo_without_clipping() -> None:
    batch, outputs = random_case(22)
    batch["advantages"][0, 3] = 0.0
    assert gmpo(batch, outputs, clip_low=99.0, clip_high=99.0) == near(
        gspo(batch, outputs, ratio_clip_min=99.0, ratio_clip_max=1e9)
    )


# --- shared -----------------------------------------------------------------------------------------------------

TOKEN_MEAN, ROW_MEAN, ROW_SUM = "token_mean", "seq_mean_token_mean", "seq_mean_token_sum"


def test_values_on_policy() -> None:
    # -A under each loss's aggregation; -A lp for cispo and vespo; -(2/tau) A for sapo.
    batch, outputs = on_policy_case(23)
    by_token: list[Oracle] = [dual_clip, dapo, bnpo]
    by_row: list[Oracle] = [gspo, gspo_token, gmpo]
    by_log_probability: list[Oracle] = [cispo, vespo]
    for oracle in by_token:
        assert oracle(batch, outputs) == near(on_policy(batch, outputs))
    assert dr_grpo(batch, outputs, max_length=9) == near(on_policy(batch, outputs, aggregation="fixed", max_length=9))
    for oracle in by_row:
        assert oracle(batch, outputs) == near(on_policy(batch, outputs, aggregation=ROW_MEAN))
    assert luspo(batch, outputs) == near(on_policy(batch, outputs, aggregation=ROW_SUM))
    for oracle in by_log_probability:
        assert oracle(batch, outputs) == near(reinforce(batch, outputs))
    assert sapo(batch, outputs, tau_pos=1.6, tau_neg=1.6) == near(
        2 / 1.6 * on_policy(batch, outputs, aggregation=ROW_MEAN)
    )


@pytest.mark.parametrize(
    ("gradient", "aggregation"),
    [
        (cispo_gradient, TOKEN_MEAN),
        (vespo_gradient, TOKEN_MEAN),
        (sapo_gradient, ROW_MEAN),
        (gspo_token_gradient, ROW_MEAN),
    ],
)
def test_gradients_on_policy_are_reinforce(gradient: Gradient, aggregation: str) -> None:
    batch, outputs = on_policy_case(24)
    expected = on_policy_gradient(batch, outputs, aggregation=aggregation)
    assert gradient(batch, outputs) == near_array(expected)
    config = {"aggregation": aggregation}
    assert expected == near_numeric(reinforce, batch, outputs, config)


ALL: list[tuple[Oracle, dict[str, Any]]] = [
    (reinforce, {}),
    (on_policy, {}),
    (dual_clip, {}),
    (dual_clip, {"aggregation": "fixed", "max_length": 7}),
    (dapo, {}),
    (dr_grpo, {"max_length": 8}),
    (bnpo, {}),
    (cispo, {}),
    (sapo, {}),
    (gspo, {}),
    (gspo_token, {}),
    (luspo, {}),
    (vespo, {}),
    (gmpo, {}),
    (value_clipped, {}),
]
GRADIENTS: list[Gradient] = [on_policy_gradient, cispo_gradient, sapo_gradient, gspo_token_gradient, vespo_gradient]


@pytest.mark.parametrize(("oracle", "config"), ALL)
def test_policy_losses_share_their_rules(oracle: Oracle, config: dict[str, Any]) -> None:
    batch, outputs = random_case(25)
    value = oracle(batch, outputs, **config)
    assert isinstance(value, float)
    assert math.isfinite(value)
    logits = {k: v for k, v in outputs.items() if k != "next_token_logprobs"}
    assert oracle(batch, logits, **config) == near(value)
    assert oracle({k: v for k, v in batch.items() if k != "sample_mask"}, outputs, **config) == near(value)
    doubled: list[Data] = [{k: np.concatenate([v, v]) for k, v in d.items()} for d in (batch, outputs)]
    assert oracle(doubled[0], doubled[1], **config) == near(value)
    counts: Data = {
        "global_valid_toks": np.array(batch["token_mask"][:, 1:].sum()),
        "global_valid_seqs": np.array(4.0),
    }
    halves = [
        oracle({k: v[part] for k, v in batch.items()} | counts, {k: v[part] for k, v in outputs.items()}, **config)
        for part in (slice(0, 2), slice(2, 4))
    ]
    if oracle is not bnpo:
        assert sum(halves) == near(value)
    if oracle is not value_clipped:
        for scale in (0.0, 2.5):
            scaled = {**batch, "advantages": scale * batch["advantages"]}
            assert oracle(scaled, outputs, **config) == near(scale * value)
    dirty, dirty_outputs = soiled(batch, outputs)
    assert oracle(dirty, dirty_outputs, **config) == near(value)
    assert oracle({**batch, "sample_mask": np.zeros(4)}, outputs, **config) == 0.0
    # A row of weight 2 is the row twice.
    heavy = {**batch, "sample_mask": np.array([1.0, 2.0, 1.0, 1.0])}
    rows = [0, 1, 1, 2, 3]
    repeated: list[Data] = [{k: v[rows] for k, v in d.items()} for d in (batch, outputs)]
    assert oracle(heavy, outputs, **config) == near(oracle(repeated[0], repeated[1], **config))


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_gradients_read_nothing_untrained(gradient: Gradient) -> None:
    batch, outputs = random_case(26)
    clean = gradient(batch, outputs)
    assert clean.shape == (4, 5)
    assert not clean[batch["token_mask"][:, 1:] == 0.0].any()
    dirty, dirty_outputs = soiled(batch, outputs)
    dirty_gradient = gradient(dirty, dirty_outputs)
    assert dirty_gradient[:4] == near_array(clean)
    assert not dirty_gradient[4:].any()


def soiled(batch: Data, outputs: Data) -> tuple[Data, Data]:
    """NaN wherever nothing is trained, and two absent rows of NaN."""
    dirty, out = ({k: v.copy() for k, v in d.items() if k != "logits"} for d in (batch, outputs))
    untrained = batch["token_mask"] == 0.0
    untrained[:, 0] = True
    for key in ("advantages", "prev_logprobs", "returns", "values"):
        dirty[key][untrained] = NAN
    out["values"][untrained] = NAN
    out["next_token_logprobs"][untrained[:, 1:]] = NAN
    dirty = {k: np.concatenate([v, np.full_like(v[:2], -7 if k == "input_ids" else NAN)]) for k, v in dirty.items()}
    out = {k: np.concatenate([v, np.full_like(v[:2], NAN)]) for k, v in out.items()}
    dirty["sample_mask"][4:] = 0.0
    dirty["token_mask"][4:] = 1.0
    return dirty, out


def test_default_settings() -> None:
    clip = {"ratio_clip_min": 0.2, "ratio_clip_max": 0.2}
    small = {"ratio_clip_min": 3e-4, "ratio_clip_max": 4e-4}
    four_settings = {"k_pos": 2.0, "lambda_pos": 3.0, "k_neg": 3.0, "lambda_neg": 2.0}
    mean = {"aggregation": "token_mean", "max_length": None}
    by_row = {"aggregation": "seq_mean_token_mean", "max_length": None}
    unclamped: dict[str, Any] = {"log_ratio_clamp": None}
    bounds = {"ratio_clip_c": None, "clip_c_bounds": "negative_advantages"}
    assert defaults(ppo_clip) == clip | bounds | unclamped | mean
    assert defaults(clipped_weight) == clip | {"weight_bound": "relative"} | unclamped
    assert [defaults(f) for f in (cispo, cispo_gradient)] == [mean] * 2
    assert defaults(dapo) == {"ratio_clip_max": 0.28}
    assert defaults(dual_clip) == {"ratio_clip_c": 3.0}
    assert defaults(dr_grpo) == {"divisor": "sequences_times_length"}
    assert [defaults(f) for f in (reinforce, on_policy, on_policy_gradient)] == [mean] * 3
    assert [defaults(f) for f in (gspo, gspo_token_gradient)] == [small | {"log_ratio_max": None} | by_row] * 2
    assert [defaults(f) for f in (sapo, sapo_gradient)] == [{"tau_pos": 1.0, "tau_neg": 1.05} | unclamped | by_row] * 2
    assert [defaults(f) for f in (vespo, vespo_gradient)] == [four_settings] * 2
    assert defaults(gmpo) == {"clip_low": 0.4, "clip_high": 0.4, "divisor": "sequences"}
    assert defaults(value_clipped) == {"scale": 1.0, "value_clip": 0.2, "normalizer": "global"}


# --- value ------------------------------------------------------------------------------------------------------


def test_value_clipped_by_hand() -> None:
    # v 1, 2; old 0, 2; R 0.5, 3; c = 0.2. Token 1: 0.25 and (0.2 - 0.5)^2 = 0.09, the larger 0.25. Token 2: 1 both.
    batch: Data = {"token_mask": np.ones((1, 3)), "returns": arr([NAN, 0.5, 3]), "values": arr([NAN, 0, 2])}
    outputs: Data = {"values": arr([NAN, 1, 2])}
    assert value_clipped(batch, outputs) == near(1.25 / 4)
    assert value_clipped(batch, outputs, scale=2.0) == near(1.25 / 2)
    # R = 1 in token 1: 0 and (0.2 - 1)^2 = 0.64, the clipped branch; c = 0.5: 0.25.
    batch["returns"] = arr([NAN, 1, 3])
    assert value_clipped(batch, outputs) == near(1.64 / 4)
    assert value_clipped(batch, outputs, value_clip=0.5) == near(1.25 / 4)
    assert value_clipped(batch, {"values": batch["returns"]}, value_clip=2.0) == near(0.0)


def test_value_clipped_laws() -> None:
    batch, outputs = random_case(27)
    plain = value_mse(batch, outputs)
    assert value_clipped(batch, outputs) > plain
    for clip in (None, 1e9):
        assert value_clipped(batch, outputs, value_clip=clip) == near(plain)
    assert value_clipped({**batch, "values": outputs["values"]}, outputs) == near(plain)
    moved = {**batch, "values": batch["values"] + 7.0, "returns": batch["returns"] + 7.0}
    assert value_clipped(moved, {"values": outputs["values"] + 7.0}) == near(value_clipped(batch, outputs))

"""verl: losses that pick tokens by covariance, estimators of the KL, and corrections for tokens another policy generated."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor

from loss_reference import LossFunction, registry
from tests.interop.comparison import Row
from tests.interop.inputs import Inputs, near_reference, sequences
from tests.interop.rows.verl import CLIP, GUARD, NO_DUAL_CLIP, PACKAGES, actor_config, of_tokens, verl, verl_policy
from tests.interop.single_modules import load


def policy_loss_config(**settings: Any) -> Any:
    made = type("PolicyLossConfig", (), {})()
    defaults = {"clip_cov_ratio": 1.0, "clip_cov_lb": 0.1, "clip_cov_ub": 2.0, "kl_cov_ratio": 0.3, "ppo_kl_coef": 0.5}
    vars(made).update({**defaults, **settings})
    return made


def by_covariance(inputs: Inputs, name: str) -> Tensor:
    return verl_policy(inputs, name=name, policy_loss=policy_loss_config())


def of_share(loss: LossFunction, inputs: Inputs) -> Tensor:
    """Return ours of as many tokens as verl takes, which rounds their share down."""
    T = int(inputs.m.sum())
    rounded = registry.create("kl_cov", {"kl_cov_ratio": (int(0.3 * T) - 0.5) / T, "ppo_kl_coef": 0.5})
    return rounded.to(inputs.logits.dtype)(inputs.batch, inputs.outputs)


def estimate(inputs: Inputs, penalty: str) -> Tensor:
    lp, _, _, m = of_tokens(inputs)
    return verl().agg_loss(verl().kl_penalty(lp, inputs.reference_policy_logprobs[:, 1:], penalty), m, "token-mean")


def entropy(inputs: Inputs) -> Tensor:
    return -0.1 * verl().compute_entropy_loss(inputs.logits[:, :-1], inputs.m)


def corrections() -> Any:
    verl()
    return load("verl.trainer.ppo.rollout_corr_helper", PACKAGES, ("ray",))


def weighted(inputs: Inputs, level: str, threshold: float | str, normalize: bool = False) -> Tensor:
    """Return the clipped loss times verl's weights of the old against the generating policy."""
    x = inputs.prev_logprobs[:, 1:] - inputs.generation_logprobs[:, 1:]
    weights = corrections().compute_rollout_correction_weights(x, inputs.m, level, threshold, normalize)[0]
    lp, old, A, m = of_tokens(inputs)
    config = actor_config(clip_ratio_c=NO_DUAL_CLIP)
    return verl().compute_policy_loss_vanilla(old, lp, A, m, config=config, rollout_is_weights=weights)[0]


def rejected(inputs: Inputs, option: str, threshold: float | str) -> Tensor:
    """Return the clipped loss of the tokens that verl's rejection keeps, divided by the count of all trained ones."""
    x = inputs.prev_logprobs[:, 1:] - inputs.generation_logprobs[:, 1:]
    kept = corrections().compute_rollout_rejection_mask(x, inputs.m, option, threshold)[0]
    lp, old, A, m = of_tokens(inputs)
    config = actor_config(global_batch_info={"batch_num_tokens": m.sum()})
    return verl().compute_policy_loss_vanilla(old, lp, A, kept, config=config)[0]


Verl = partial(Row, library="verl", inputs=sequences)
Kl = partial(Row, library="verl", inputs=near_reference)
STRAIGHT = {"kl_gradient": "straight_through_k2"}
CLAMPED = "the estimator is clamped at 10"

ROWS = (
    Verl(
        "clip_cov",
        counterpart="compute_policy_loss_clip_cov, clip_cov_ratio=1",
        theirs=partial(by_covariance, name="clip_cov"),
        config={**CLIP, "clip_cov_ratio": 1.0, "clip_cov_lb": 0.1, "clip_cov_ub": 2.0},
        note="a share below 1 leaves out random tokens, which no two libraries draw alike",
    ),
    Verl(
        "kl_cov",
        counterpart="compute_policy_loss_kl_cov, kl_cov_ratio=0.3",
        theirs=partial(by_covariance, name="kl_cov"),
        config={"kl_cov_ratio": 0.3, "ppo_kl_coef": 0.5},
        difference="the share of tokens is rounded down, ours up: ours of one token less where it is no whole number",
        ours=of_share,
    ),
    Kl("kl_k1", counterpart='kl_penalty "kl"', theirs=partial(estimate, penalty="kl")),
    Kl("kl_k2", counterpart='kl_penalty "mse"', theirs=partial(estimate, penalty="mse")),
    Kl("kl_k3", counterpart='kl_penalty "low_var_kl"', theirs=partial(estimate, penalty="low_var_kl"), note=CLAMPED),
    Kl("kl_abs", counterpart='kl_penalty "abs"', theirs=partial(estimate, penalty="abs")),
    Verl(
        "kl_k3",
        counterpart='kl_penalty "low_var_kl", far from the reference',
        theirs=partial(estimate, penalty="low_var_kl"),
        option={"input_clamp": 20.0, "output_clamp": 10.0},
    ),
    Kl("kl_k3", counterpart='kl_penalty "k3+"', theirs=partial(estimate, penalty="k3+"), option=STRAIGHT),
    Kl("kl_k1", counterpart='kl_penalty "k1+"', theirs=partial(estimate, penalty="k1+"), option=STRAIGHT),
    Kl("kl_straight_through", counterpart='kl_penalty "k3+"', theirs=partial(estimate, penalty="k3+")),
    Verl("entropy_bonus", counterpart="-c compute_entropy_loss", theirs=entropy, config={"coefficient": 0.1}),
    Verl("gpg", counterpart='compute_policy_loss_gpg, "token-mean"', theirs=partial(verl_policy, name="gpg")),
    Verl(
        "tis",
        counterpart='rollout_is="token", rollout_is_threshold=1.2',
        theirs=partial(weighted, level="token", threshold=1.2),
        config={**CLIP, "is_max": 1.2},
    ),
    Verl(
        "icepop",
        counterpart='rollout_is="token", rollout_is_threshold="0.8_1.2"',
        theirs=partial(weighted, level="token", threshold="0.8_1.2"),
        config={**CLIP, "is_min": 0.8, "is_max": 1.2},
    ),
    Verl(
        "seq_truncate",
        counterpart='rollout_is="sequence", rollout_is_threshold=1.2',
        theirs=partial(weighted, level="sequence", threshold=1.2),
        config={**CLIP, "is_max": 1.2},
    ),
    Verl(
        "seq_mask",
        counterpart='rollout_is="sequence", rollout_is_threshold="0.5_2.0"',
        theirs=partial(weighted, level="sequence", threshold="0.5_2.0"),
        config={**CLIP, "is_min": 0.5, "is_max": 2.0},
    ),
    *(
        Verl(
            loss,
            counterpart=f'rollout_is="{level}", rollout_is_threshold={threshold!r}, rollout_is_batch_normalize=True'.replace(
                "'", '"'
            ),
            theirs=partial(weighted, level=level, threshold=threshold, normalize=True),
            config={**CLIP, **bounds},
            option={"batch_normalize": True},
            slack=GUARD,
        )
        for loss, level, threshold, bounds in (
            ("tis", "token", 1.2, {"is_max": 1.2}),
            ("icepop", "token", "0.8_1.2", {"is_min": 0.8, "is_max": 1.2}),
            ("seq_truncate", "sequence", 1.2, {"is_max": 1.2}),
            ("seq_mask", "sequence", "0.5_2.0", {"is_min": 0.5, "is_max": 2.0}),
        )
    ),
    *(
        Verl(
            "divergence_mask",
            counterpart=f'rollout_rs="{level}_{estimator}", a global token count',
            theirs=partial(rejected, option=f"{level}_{estimator}", threshold=f"{1 / upper}_{upper}" if k1 else upper),
            config={**CLIP, "estimator": estimator, "level": level, "upper": upper},
            slack=GUARD,
        )
        for level, estimator, upper, k1 in (
            ("token", "k1", 1.25, True),
            ("token", "k3", 0.1, False),
            ("seq_mean", "k1", 1.25, True),
            ("seq_sum", "k2", 0.6, False),
            ("seq_max", "k3", 0.3, False),
        )
    ),
    Verl(
        "divergence_mask",
        counterpart='rollout_rs="token_k1", rollout_rs_threshold="0.9_1.5", a global token count',
        theirs=partial(rejected, option="token_k1", threshold="0.9_1.5"),
        config={**CLIP, "upper": 1 / 0.9, "lower": 1 / 1.5},
        note="the bounds there are of the generating over the old policy, ours of the inverse",
    ),
)

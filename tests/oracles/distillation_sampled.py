"""Distillation along sampled tokens: the value of each surrogate, its constant factors taken at the policy itself.

Factors without gradient are taken from `held`, a policy that stays where it is; None: from the outputs. Finite differences
in the outputs beside a `held` equal to them are then the gradient of the surrogate.
"""

import math

from .counts import Fields, TokenTerms, aggregate, live_tokens, next_token_logprob, whole_answers
from .distillation import reverse_kl, teacher_and_student
from .distillation_divergences import jensen_shannon
from .numerics import exp
from .policy_gradient import ppo_clip, ppo_term
from .supervised_terms import target


def token_field(batch: Fields, name: str, b: int, t: int) -> float:
    """A [B, S] field's entry of the token that position t predicts."""
    return float(batch[name][b, t + 1])


def rewards_to_go(
    gains: list[float | None], gamma: float, length_normalization: bool, discount: str = "relative"
) -> list[float]:
    """R_i = sum_{j >= i} gamma^{d_ij} gain_j over a row's trained tokens, over sum gamma^{d_ij} where normalised.

    gains holds None at the untrained places between, so that the discount d_ij is the distance in the row: j - i
    (relative), or j - f from the first trained place f, whatever i is (absolute). gamma 0: R_i = gain_i either way.
    An untrained place has 0.
    """
    if discount not in ("relative", "absolute"):
        raise ValueError(f"unknown discount {discount!r}")
    if gamma == 0.0:
        return [0.0 if gain is None else gain for gain in gains]
    first = next((place for place, gain in enumerate(gains) if gain is not None), 0)
    found = []
    for start, own in enumerate(gains):
        origin = start if discount == "relative" else first
        total = discounts = 0.0
        for place in range(start, len(gains)):
            gain = gains[place]
            if own is not None and gain is not None:
                total += math.pow(gamma, place - origin) * gain
                discounts += math.pow(gamma, place - origin)
        found.append(total / discounts if length_normalization and own is not None else total)
    return found


def minillm(
    batch: Fields,
    outputs: Fields,
    *,
    gamma: float = 1.0,
    length_normalization: bool = True,
    single_step_weight: float = 1.0,
    ratio_clip_min: float = 0.2,
    ratio_clip_max: float = 0.2,
    temperature: float = 1.0,
    discount: str = "relative",
    padding: str = "ignored",
    detach_reward: bool = True,
    held: Fields | None = None,
) -> float:
    """token mean of ppo_clip at ratio exp(lp - lp_old) and advantage A + R, + single_step_weight reverse_kl.

    R is rewards_to_go of log p - log q of the sampled tokens (p teacher, q student, at the temperature). Without
    prev_logprobs lp_old is lp of held, and the ratio 1; without advantages A is 0. With padding counted, R
    and reverse_kl are those of whole_answers. R is that of held, or with detach_reward false that of the outputs.
    """
    if padding not in ("ignored", "counted"):
        raise ValueError(f"unknown padding {padding!r}")
    counted = whole_answers(batch) if padding == "counted" else batch
    constant = outputs if held is None else held
    rows, width = batch["token_mask"].shape
    gains: list[list[float | None]] = [[None] * (width - 1) for _ in range(rows)]
    for b, t in live_tokens(counted):
        log_p, log_q = teacher_and_student(batch, constant if detach_reward else outputs, b, t, temperature)
        y = target(batch, b, t)
        gains[b][t] = log_p[y] - log_q[y]
    to_go = [rewards_to_go(row, gamma, length_normalization, discount) for row in gains]
    terms: TokenTerms = {}
    for b, t in live_tokens(batch):
        given = "prev_logprobs" in batch
        old = token_field(batch, "prev_logprobs", b, t) if given else next_token_logprob(batch, constant, b, t)
        ratio = exp(next_token_logprob(batch, outputs, b, t) - old)
        advantage = to_go[b][t]
        if "advantages" in batch:
            advantage += token_field(batch, "advantages", b, t)
        terms[b, t] = ppo_term(ratio, advantage, ratio_clip_min, ratio_clip_max, None)
    value = aggregate(terms, batch, "token_mean", None)
    if single_step_weight != 0.0:
        value += single_step_weight * reverse_kl(counted, outputs, temperature=temperature)
    return value


def opd_sampled(batch: Fields, outputs: Fields, *, held: Fields | None = None) -> float:
    """-(lp_T - lp of held) lp, token mean."""
    constant = outputs if held is None else held
    terms: TokenTerms = {}
    for b, t in live_tokens(batch):
        gap = token_field(batch, "teacher_logprobs", b, t) - next_token_logprob(batch, constant, b, t)
        terms[b, t] = -gap * next_token_logprob(batch, outputs, b, t)
    return aggregate(terms, batch, "token_mean", None)


def iw_opd(batch: Fields, outputs: Fields, *, gamma: float = 0.5, held: Fields | None = None) -> float:
    """-w A lp, token mean; A = lp_T - generation_logprobs (or - lp of held without those).

    w_t = 1 + gamma (1 - sum_{s<t} |A_s| / max(sum_s |A_s|, 1e-8)), sums over the row's trained tokens.
    """
    constant = outputs if held is None else held
    logprobs = {(b, t): next_token_logprob(batch, outputs, b, t) for b, t in live_tokens(batch)}
    advantages: TokenTerms = {}
    for b, t in logprobs:
        given = "generation_logprobs" in batch
        rollout = (
            token_field(batch, "generation_logprobs", b, t) if given else next_token_logprob(batch, constant, b, t)
        )
        advantages[b, t] = token_field(batch, "teacher_logprobs", b, t) - rollout
    terms: TokenTerms = {}
    for (b, t), lp in logprobs.items():
        whole = sum(abs(a) for (row, _), a in advantages.items() if row == b)
        before = sum(abs(a) for (row, s), a in advantages.items() if row == b and s < t)
        weight = 1.0 + gamma * (1.0 - before / max(whole, 1e-8))
        terms[b, t] = -weight * advantages[b, t] * lp
    return aggregate(terms, batch, "token_mean", None)


def clipped_ratio(batch: Fields, outputs: Fields, b: int, t: int, is_clip: float) -> float:
    """min(e^{clamp(lp - lp_old, -20, 20)}, is_clip)."""
    gap = next_token_logprob(batch, outputs, b, t) - token_field(batch, "prev_logprobs", b, t)
    return min(math.exp(min(max(gap, -20.0), 20.0)), is_clip)


def sdft(
    batch: Fields,
    outputs: Fields,
    *,
    alpha: float = 0.5,
    is_clip: float = 2.0,
    temperature: float = 1.0,
    held: Fields | None = None,
) -> float:
    """clipped_ratio of held times generalized_jsd with the teacher's share alpha, the mean over rows of token means."""
    constant = outputs if held is None else held
    terms: TokenTerms = {}
    for b, t in live_tokens(batch):
        log_p, log_q = teacher_and_student(batch, outputs, b, t, temperature)
        terms[b, t] = clipped_ratio(batch, constant, b, t, is_clip) * jensen_shannon(log_p, log_q, alpha)
    return aggregate(terms, batch, "seq_mean_token_mean", None)


def sdpo(
    batch: Fields,
    outputs: Fields,
    *,
    is_clip: float = 2.0,
    distillation_weight: float = 1.0,
    ratio_clip_min: float = 0.2,
    ratio_clip_max: float = 0.2,
    held: Fields | None = None,
) -> float:
    """w times the mean over rows of token means of clipped_ratio (lp - lp_T) lp, + (1 - w) ppo_clip, w the weight.

    clipped_ratio and lp - lp_T are those of held. ppo_clip is aggregated alike; a side of weight 0 is not evaluated.
    """
    constant = outputs if held is None else held
    value = 0.0
    if distillation_weight != 0.0:
        terms: TokenTerms = {}
        for b, t in live_tokens(batch):
            gap = next_token_logprob(batch, constant, b, t) - token_field(batch, "teacher_logprobs", b, t)
            factor = clipped_ratio(batch, constant, b, t, is_clip) * gap
            terms[b, t] = factor * next_token_logprob(batch, outputs, b, t)
        value += distillation_weight * aggregate(terms, batch, "seq_mean_token_mean", None)
    if distillation_weight != 1.0:
        policy = ppo_clip(
            batch,
            outputs,
            ratio_clip_min=ratio_clip_min,
            ratio_clip_max=ratio_clip_max,
            aggregation="seq_mean_token_mean",
        )
        value += (1.0 - distillation_weight) * policy
    return value

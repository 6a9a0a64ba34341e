"""Preference losses of samples drawn while training, told apart by a judge."""

from .counts import Fields, live_tokens, next_token_logprob
from .numerics import softplus
from .preference_terms import log_ratio_pair, pair_mean, sequence_logprob
from .preference_unpaired import row_mean


def judged_term(batch: Fields, outputs: Fields, n: int, beta: float, loss_type: str) -> float:
    """P1 (sigmoid) or P6 of sums (ipo) at D = h_winner - h_loser; row 2n wins where its label is nonzero."""
    first, second = log_ratio_pair(batch, outputs, n)
    margin = first - second if float(batch["labels"][2 * n]) != 0.0 else second - first
    if loss_type == "sigmoid":
        return softplus(-beta * margin)
    if loss_type == "ipo":
        return float((margin - 0.5 / beta) ** 2)
    raise ValueError(f"unknown loss_type {loss_type!r}")


def online_dpo(batch: Fields, outputs: Fields, *, beta: float = 0.1, loss_type: str = "sigmoid") -> float:
    """P42: -log sigma(beta D) (sigmoid) or (D - 1/(2 beta))^2 (ipo), D = h_winner - h_loser; pair mean."""
    return pair_mean(batch, lambda n: judged_term(batch, outputs, n, beta, loss_type))


def xpo(
    batch: Fields,
    outputs: Fields,
    *,
    beta: float = 0.1,
    alpha: float = 1e-5,
    loss_type: str = "sigmoid",
) -> float:
    """P40: P42's term plus alpha p of the odd row, the reference's own sample; pair mean."""

    def term(n: int) -> float:
        explored = sequence_logprob(batch, outputs, 2 * n + 1, False)
        return judged_term(batch, outputs, n, beta, loss_type) + alpha * explored

    return pair_mean(batch, term)


def nash_md(batch: Fields, outputs: Fields, *, beta: float = 0.1) -> float:
    """P41: row mean of beta sum_t tm sg(lp - lp_ref) lp - (P - 1/2) sum_t tm lp, P = preference_probability.

    The value; its gradient takes the log-ratio as a constant.
    """

    def term(row: int) -> float:
        total = 0.0
        for b, t in live_tokens(batch):
            if b == row:
                policy = next_token_logprob(batch, outputs, b, t)
                ratio = policy - float(batch["reference_policy_logprobs"][b, t + 1])
                push = float(batch["preference_probability"][b]) - 0.5
                total += float(batch["token_mask"][b, t + 1]) * (beta * ratio - push) * policy
        return total

    return row_mean(batch, term)

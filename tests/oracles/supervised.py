"""Supervised losses."""

from .counts import Fields, TokenTerms, aggregate, live_tokens, next_token_logprob


def nll(batch: Fields, outputs: Fields, *, aggregation: str = "token_mean", max_length: float | None = None) -> float:
    """l[b,t] = -lp[b,t]; token_mean gives -sum m lp / T_g."""
    terms: TokenTerms = {}
    for b, t in live_tokens(batch):
        terms[b, t] = -next_token_logprob(batch, outputs, b, t)
    return aggregate(terms, batch, aggregation, max_length)

"""PyTorch itself, on preference pairs, scores and embeddings: losses of its classes under other names."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Bernoulli, kl_divergence

from loss_reference import LossFunction
from tests.interop.comparison import Row
from tests.interop.conversions import times
from tests.interop.inputs import Inputs, next_logprobs, scores, sequences, views

Pairs = partial(Row, library="torch", inputs=sequences)
Scores = partial(Row, library="torch", inputs=scores)
TRIPLET = ("anchor_embeddings", "positive_embeddings", "negative_embeddings")
BETA = 0.3


def log_ratios(inputs: Inputs) -> Tensor:
    """Return h [B], the log-ratio of every answer to the reference."""
    lp = next_logprobs(inputs.logits, inputs.input_ids)
    return ((lp - inputs.reference_policy_logprobs[:, 1:]) * inputs.m).sum(dim=1)


def margins(inputs: Inputs) -> Tensor:
    """Return x [B/2], beta times the log-ratio of the chosen less that of the rejected answer."""
    h = log_ratios(inputs)
    return BETA * (h[0::2] - h[1::2])


def soft_margin(inputs: Inputs) -> Tensor:
    x = margins(inputs)
    return nn.SoftMarginLoss()(x, torch.ones_like(x))


def logistic(inputs: Inputs, label: float = 1.0) -> Tensor:
    x = margins(inputs)
    return nn.BCEWithLogitsLoss()(x, torch.full_like(x, label))


def ranking_margin(inputs: Inputs) -> Tensor:
    h = BETA * log_ratios(inputs)
    return nn.MarginRankingLoss(margin=1.0)(h[0::2], h[1::2], torch.ones_like(h[0::2]))


def squared_margin(inputs: Inputs) -> Tensor:
    x = margins(inputs) / BETA
    return nn.MSELoss()(x, torch.full_like(x, 1 / (2 * BETA)))


def bernoulli_kl(inputs: Inputs, policy_first: bool = True) -> Tensor:
    gap = inputs.batch["rewards"]
    policy, target = Bernoulli(logits=margins(inputs)), Bernoulli(logits=gap[0::2] - gap[1::2])
    return (kl_divergence(policy, target) if policy_first else kl_divergence(target, policy)).mean()


def bernoulli_kl_to_label(inputs: Inputs) -> Tensor:
    policy = Bernoulli(logits=margins(inputs))
    return kl_divergence(policy, Bernoulli(probs=torch.full_like(policy.logits, 0.9))).mean()


def squared_gap(inputs: Inputs) -> Tensor:
    gap = inputs.batch["rewards"]
    return nn.MSELoss()(margins(inputs), gap[0::2] - gap[1::2])


def shifted(inputs: Inputs, by: str) -> Tensor:
    """Return the logistic loss of x less 0.7 times the gap of the rewards, or plus 0.02 times that of the lengths."""
    gap, n = inputs.batch["rewards"], inputs.m.sum(dim=1)
    x = margins(inputs) + (0.02 * (n[0::2] - n[1::2]) if by == "length" else -0.7 * (gap[0::2] - gap[1::2]))
    return nn.SoftMarginLoss()(x, torch.ones_like(x))


def two_squares(inputs: Inputs) -> Tensor:
    h, target = log_ratios(inputs).reshape(-1, 2), torch.tensor([1 / (2 * BETA), -1 / (2 * BETA)], dtype=torch.float64)
    return nn.MSELoss(reduction="sum")(h, target.to(h).expand_as(h)) / len(h)


def of_groups(inputs: Inputs) -> Tensor:
    r = BETA * log_ratios(inputs).reshape(-1, 3)
    return nn.CrossEntropyLoss()(r, (inputs.batch["rewards"].reshape(-1, 3) / 0.5).softmax(dim=1))


def absolute_logistic(inputs: Inputs) -> Tensor:
    h = BETA * log_ratios(inputs)
    labels = torch.tensor([1.0, 0.0]).to(h).repeat(len(h) // 2)
    return nn.BCEWithLogitsLoss()(h, labels)


def of_scores(inputs: Inputs, shift: bool = False) -> Tensor:
    r = inputs.leaves["rewards"]
    x = r[0::2] - r[1::2] - (inputs.margin[0::2] if shift else 0.0)
    return nn.SoftMarginLoss()(x, torch.ones_like(x))


def soft_label(inputs: Inputs) -> Tensor:
    r = inputs.leaves["rewards"]
    return nn.BCEWithLogitsLoss()(r[0::2] - r[1::2], inputs.preference_probability[0::2])


def outcome(inputs: Inputs) -> Tensor:
    r = inputs.leaves["rewards"]
    return nn.BCEWithLogitsLoss()(r, inputs.labels.to(r))


def regression(inputs: Inputs) -> Tensor:
    return nn.MSELoss()(inputs.leaves["rewards"], inputs.scores)


def triplet(inputs: Inputs, **settings: object) -> Tensor:
    return nn.TripletMarginLoss(margin=0.7, **settings)(*(inputs.leaves[name] for name in TRIPLET))


def triplet_of_norms(inputs: Inputs) -> Tensor:
    module = nn.TripletMarginWithDistanceLoss(distance_function=lambda x, y: (x - y).norm(dim=-1), margin=0.7)
    return module(*(inputs.leaves[name] for name in TRIPLET))


def with_shifted_anchor(loss: LossFunction, inputs: Inputs) -> Tensor:
    """Return ours of an anchor moved by 1e-6 in every coordinate."""
    anchor, positive, negative = (inputs.leaves[name] for name in TRIPLET)
    return loss({}, dict(zip(TRIPLET, (anchor + 1e-6, positive, negative), strict=True)))


def diagonal(inputs: Inputs) -> Tensor:
    z = inputs.leaves["anchor_embeddings"] @ inputs.leaves["positive_embeddings"].T
    return nn.CrossEntropyLoss()(z, torch.arange(len(z)))


def both_diagonals(inputs: Inputs) -> Tensor:
    x, y = (F.normalize(inputs.leaves[f"{name}_embeddings"], dim=1) for name in ("image", "text"))
    z = x @ y.T / 0.07
    target = torch.arange(len(z))
    return (nn.CrossEntropyLoss()(z, target) + nn.CrossEntropyLoss()(z.T, target)) / 2


ROWS = (
    Pairs("dpo", counterpart="nn.SoftMarginLoss()(x, 1)", theirs=soft_margin, config={"beta": BETA}),
    Pairs("dpo", counterpart="nn.BCEWithLogitsLoss()(x, 1)", theirs=logistic, config={"beta": BETA}),
    Pairs(
        "cdpo",
        counterpart="nn.BCEWithLogitsLoss()(x, 1 - e)",
        theirs=partial(logistic, label=0.8),
        config={"beta": BETA, "label_smoothing": 0.2},
    ),
    Pairs("hinge_dpo", counterpart="nn.MarginRankingLoss(margin=1)", theirs=ranking_margin, config={"beta": BETA}),
    Pairs("ipo", counterpart="nn.MSELoss()(x / beta, 1 / (2 beta))", theirs=squared_margin, config={"beta": BETA}),
    Pairs(
        "exo_pair",
        counterpart="distributions.kl_divergence(Bernoulli(logits=x), Bernoulli(1 - e))",
        theirs=bernoulli_kl_to_label,
        config={"beta": BETA, "label_smoothing": 0.1},
    ),
    Pairs(
        "bco_pair",
        counterpart="nn.BCEWithLogitsLoss()(beta h, [1, 0])",
        theirs=absolute_logistic,
        config={"beta": BETA},
        difference="averages over rows, of which a pair has two: half of ours",
        ours=partial(times, 0.5),
    ),
    Pairs("rebel", counterpart="nn.MSELoss()(delta / eta, gap)", theirs=squared_gap, config={"eta": 1 / BETA}),
    Pairs("sppo_hard", counterpart="nn.MSELoss()(h, [1, -1] / (2 beta))", theirs=two_squares, config={"beta": BETA}),
    Pairs(
        "odpo",
        counterpart="nn.SoftMarginLoss()(x - alpha gap, 1)",
        theirs=partial(shifted, by="reward"),
        config={"beta": BETA, "alpha": 0.7},
    ),
    Pairs(
        "r_dpo",
        counterpart="nn.SoftMarginLoss()(x + alpha (n_w - n_l), 1)",
        theirs=partial(shifted, by="length"),
        config={"beta": BETA, "alpha": 0.02},
    ),
    Pairs(
        "infonca",
        counterpart="nn.CrossEntropyLoss()(beta h, softmax(rewards / alpha))",
        theirs=of_groups,
        config={"group_size": 3, "beta": BETA, "alpha": 0.5},
    ),
    Pairs("rpo_sq", counterpart="nn.MSELoss()(x, y)", theirs=squared_gap, config={"beta": BETA}),
    Pairs(
        "rpo_fwd_kl",
        counterpart="distributions.kl_divergence(Bernoulli(logits=x), Bernoulli(logits=y))",
        theirs=bernoulli_kl,
        config={"beta": BETA},
    ),
    Pairs(
        "rpo_bwd_kl",
        counterpart="distributions.kl_divergence(Bernoulli(logits=y), Bernoulli(logits=x))",
        theirs=partial(bernoulli_kl, policy_first=False),
        config={"beta": BETA},
    ),
    Scores("bradley_terry", counterpart="nn.SoftMarginLoss()(r_w - r_l, 1)", theirs=of_scores),
    Scores("logexp_pairwise", counterpart="nn.SoftMarginLoss()(r_w - r_l, 1)", theirs=of_scores),
    Scores("bt_margin", counterpart="nn.SoftMarginLoss()(r_w - r_l - m, 1)", theirs=partial(of_scores, shift=True)),
    Scores("bt_soft_label", counterpart="nn.BCEWithLogitsLoss()(r_w - r_l, q)", theirs=soft_label),
    Scores("orm_bce", counterpart="nn.BCEWithLogitsLoss()", theirs=outcome),
    Scores("reward_regression", counterpart="nn.MSELoss()", theirs=regression),
    Row(
        "triplet_margin",
        "torch",
        "nn.TripletMarginLoss()",
        views(*TRIPLET),
        triplet,
        config={"margin": 0.7},
        difference="adds 1e-6 to every difference of coordinates: ours of an anchor moved by that",
        ours=with_shifted_anchor,
    ),
    Row(
        "triplet_margin",
        "torch",
        "nn.TripletMarginWithDistanceLoss(distance_function=norm)",
        views(*TRIPLET),
        triplet_of_norms,
        config={"margin": 0.7},
    ),
    Row(
        "n_pairs",
        "torch",
        "nn.CrossEntropyLoss()(a @ p.T, diagonal)",
        views("anchor_embeddings", "positive_embeddings"),
        diagonal,
    ),
    Row(
        "clip_symmetric",
        "torch",
        "nn.CrossEntropyLoss() over rows and columns",
        views("image_embeddings", "text_embeddings"),
        both_diagonals,
    ),
)

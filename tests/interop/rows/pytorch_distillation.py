"""PyTorch itself: divergences between teacher and student, and estimators of the KL from samples."""

from __future__ import annotations

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Categorical

from tests.interop.comparison import Row
from tests.interop.inputs import Inputs, next_logprobs, sequences, trained

Tokens = partial(Row, library="torch", inputs=sequences)
BETA, SKEW, T, K = 0.3, 0.2, 2.0, 3


def kl(log_a: Tensor, log_b: Tensor) -> Tensor:
    """Return KL(a || b), a mean over rows, by ``nn.KLDivLoss``."""
    return nn.KLDivLoss(reduction="batchmean", log_target=True)(log_b, log_a)


def mixture(log_a: Tensor, log_b: Tensor, share: float) -> Tensor:
    """Return log((1 - share) a + share b)."""
    return torch.logaddexp(log_a + math.log1p(-share), log_b + math.log(share))


def log_probabilities(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Return (log p, log q) of teacher and student at the trained tokens."""
    z, z_teacher, _ = trained(inputs)
    return z_teacher.log_softmax(dim=-1), z.log_softmax(dim=-1)


def soft_targets(inputs: Inputs) -> Tensor:
    z, z_teacher, _ = trained(inputs)
    return nn.CrossEntropyLoss()(z, z_teacher.softmax(dim=-1))


def absolute_difference(inputs: Inputs) -> Tensor:
    log_p, log_q = log_probabilities(inputs)
    return nn.L1Loss(reduction="sum")(log_q.exp(), log_p.exp()) / (2 * len(log_p))


def jensen_shannon(inputs: Inputs) -> Tensor:
    log_p, log_q = log_probabilities(inputs)
    log_m = mixture(log_q, log_p, BETA)
    return BETA * kl(log_p, log_m) + (1 - BETA) * kl(log_q, log_m)


def skewed(inputs: Inputs, forward: bool) -> Tensor:
    log_p, log_q = log_probabilities(inputs)
    return kl(log_p, mixture(log_q, log_p, SKEW)) if forward else kl(log_q, mixture(log_p, log_q, SKEW))


def cosine(inputs: Inputs) -> Tensor:
    z, z_teacher, _ = trained(inputs)
    return nn.CosineEmbeddingLoss()(z, z_teacher, torch.ones(len(z), dtype=z.dtype))


def hard_and_soft(inputs: Inputs) -> Tensor:
    z, z_teacher, y = trained(inputs)
    soft = kl((z_teacher / T).log_softmax(dim=-1), (z / T).log_softmax(dim=-1))
    return 0.7 * nn.CrossEntropyLoss()(z, y) + 0.3 * T**2 * soft


def of_top_tokens(inputs: Inputs, renormalise: bool) -> Tensor:
    z, z_teacher, _ = trained(inputs)
    top = z_teacher.topk(K, dim=-1)
    log_q = z.gather(-1, top.indices).log_softmax(dim=-1) if renormalise else z.log_softmax(dim=-1)
    return kl(top.values.log_softmax(dim=-1), log_q if renormalise else log_q.gather(-1, top.indices))


def sorted_difference(inputs: Inputs) -> Tensor:
    p, q = (x.softmax(dim=-1).sort(dim=-1).values for x in (inputs.teacher_logits[:, :-1], inputs.logits[:, :-1]))
    rows = [
        F.l1_loss(q_b[m_b], p_b[m_b], reduction="sum") / m_b.sum()
        for p_b, q_b, m_b in zip(p, q, inputs.m != 0, strict=True)
    ]
    return torch.stack(rows).mean()


def entropy(inputs: Inputs) -> Tensor:
    return -0.1 * Categorical(logits=trained(inputs)[0]).entropy().mean()


def gap(inputs: Inputs, loss: nn.Module) -> Tensor:
    m = inputs.m != 0
    lp = next_logprobs(inputs.logits, inputs.input_ids)
    return loss(lp[m], inputs.reference_policy_logprobs[:, 1:][m])


def half_square(inputs: Inputs) -> Tensor:
    return gap(inputs, nn.MSELoss()) / 2


def distance(inputs: Inputs) -> Tensor:
    return gap(inputs, nn.L1Loss())


ROWS = (
    Tokens("soft_ce", counterpart="nn.CrossEntropyLoss()(z, p)", theirs=soft_targets),
    Tokens("tvd", counterpart="nn.L1Loss()(q, p) / 2", theirs=absolute_difference),
    Tokens(
        "generalized_jsd",
        counterpart="nn.KLDivLoss from the mixture",
        theirs=jensen_shannon,
        config={"beta": BETA},
    ),
    Tokens(
        "skew_forward_kl",
        counterpart="nn.KLDivLoss(skew p + (1 - skew) q, p)",
        theirs=partial(skewed, forward=True),
        config={"skew": SKEW},
    ),
    Tokens(
        "skew_reverse_kl",
        counterpart="nn.KLDivLoss((1 - skew) p + skew q, q)",
        theirs=partial(skewed, forward=False),
        config={"skew": SKEW},
    ),
    Tokens(
        "cosine_distill",
        counterpart="nn.CosineEmbeddingLoss()(z, z_teacher, 1)",
        theirs=cosine,
        config={"beta": 1.0},
        slack=1e-11,
    ),
    Tokens(
        "hinton_kd",
        counterpart="nn.CrossEntropyLoss() and T^2 nn.KLDivLoss",
        theirs=hard_and_soft,
        config={"alpha": 0.3, "temperature": T},
    ),
    Tokens(
        "topk_renorm",
        counterpart="nn.KLDivLoss of the top K, renormalised",
        theirs=partial(of_top_tokens, renormalise=True),
        config={"k": K},
    ),
    Tokens(
        "zero_outside_topk",
        counterpart="nn.KLDivLoss of the top K",
        theirs=partial(of_top_tokens, renormalise=False),
        config={"k": K},
    ),
    Tokens("uld", counterpart="nn.functional.l1_loss of sorted probabilities", theirs=sorted_difference),
    Tokens(
        "entropy_bonus",
        counterpart="-c distributions.Categorical.entropy",
        theirs=entropy,
        config={"coefficient": 0.1},
    ),
    Tokens("kl_k2", counterpart="nn.MSELoss()(lp, lp_ref) / 2", theirs=half_square),
    Tokens("kl_abs", counterpart="nn.L1Loss()(lp, lp_ref)", theirs=distance),
)

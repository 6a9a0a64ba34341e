"""Matching: what belongs to a row, to a class or to an anchor, and is taken for somebody else's."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from loss_reference import Contract, LossFunction
from tests.faults.fault import ADVICE, FAILED, Fault
from tests.faults.parts import constant, kept, pair_weights, pairs, row_weights, token_weights


class RewardTimesScore(LossFunction):
    """-R_b times the sum of the row's log-probabilities, the mean over the rows."""

    def terms(self, rewards, scores, n):
        return (rewards * scores).sum() / n

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        w = row_weights(batch, m)
        lp = (kept(model_outputs["next_token_logprobs"], m) * m).sum(1)
        return -self.terms(kept(batch["rewards"].detach(), w) * (w != 0), lp, w.sum().clamp(min=1))


class MeanRewardTimesMeanScore(RewardTimesScore):
    """The means are taken before they are multiplied."""

    def terms(self, rewards, scores, n):
        return rewards.sum() / n * scores.sum() / n


class EachAgainstItsOwn(LossFunction):
    """Log-sigmoid of the chosen log-ratio over the rejected one of the same pair."""

    def margins(self, chosen, rejected, w):
        return chosen - rejected, w

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        ratio = kept(model_outputs["next_token_logprobs"], m) - constant(batch, "reference_policy_logprobs", m)
        margin, weight = self.margins(*pairs(ratio.sum(1)), pair_weights(batch, m))
        return (F.softplus(-0.2 * margin) * weight).sum() / weight.sum().clamp(min=1)


class EachAgainstAll(EachAgainstItsOwn):
    """The chosen ones keep a trailing axis."""

    def margins(self, chosen, rejected, w):
        return chosen.unsqueeze(1) - rejected, w.unsqueeze(1) * w


class CrossEntropyOfTeacher(LossFunction):
    """-sum_v p log q, the mean over the trained tokens."""

    def expected(self, p, log_q):
        return -(p * log_q).sum(-1)

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        p = kept(batch["teacher_logits"][:, :-1].detach(), m).softmax(-1)
        log_q = kept(model_outputs["logits"][:, :-1], m).log_softmax(-1).clamp(min=-1e4)
        return (self.expected(p, log_q) * m).sum() / m.sum().clamp(min=1)


class MeanOverClasses(CrossEntropyOfTeacher):
    """mean(-1) where the expectation is a sum."""

    def expected(self, p, log_q):
        return -(p * log_q).mean(-1)


def squared_hinge_of_pairs(output1, output2, label):
    """Hadsell's loss: d^2 where a pair belongs together (label 0), max(0, 1 - d)^2 where it does not."""
    d = torch.linalg.vector_norm(output1 - output2, dim=-1)
    return ((1 - label) * d.square() + label * (1 - d).clamp(min=0).square()).mean()


def squared_hinge_of_roots(output1, output2, label):
    """The distance written out: its square root has no derivative where the two coincide."""
    d = ((output1 - output2) ** 2).sum(-1) ** 0.5
    return ((1 - label) * d.square() + label * (1 - d).clamp(min=0).square()).mean()


def softmax_of_keys(query, positive_key, negative_keys):
    """InfoNCE: the positive key against the negative keys of the whole batch."""
    q, p, n = (F.normalize(x, dim=-1) for x in (query, positive_key, negative_keys))
    scores = torch.cat(((q * p).sum(-1, keepdim=True), q @ n.T), dim=1) / 0.5
    return -scores.log_softmax(1)[:, 0].mean()


def softmax_of_distances(query, positive_key, negative_keys):
    """The same with distances put where similarities belong."""
    q, p, n = (F.normalize(x, dim=-1) for x in (query, positive_key, negative_keys))
    scores = torch.cat((1 - (q * p).sum(-1, keepdim=True), 1 - q @ n.T), dim=1) / 0.5
    return -scores.log_softmax(1)[:, 0].mean()


def cosines_of_views(z1, z2, margin=0.5):
    """Views of a row above the margin in cosine, rows of one batch below it."""
    a, b = F.normalize(z1, dim=1), F.normalize(z2, dim=1)
    s = a @ b.T
    n = len(s)
    return (1 - s.diagonal()).mean() + (s - margin).clamp(min=0).sum() / n**2


def cosines_of_features(z1, z2, margin=0.5):
    """The lengths taken along the batch."""
    a, b = (z / z.pow(2).sum(0, keepdim=True).clamp(min=1e-12).sqrt() for z in (z1, z2))
    s = a @ b.T
    n = len(s)
    return (1 - s.diagonal()).mean() + (s - margin).clamp(min=0).sum() / n**2


FAULTS = (
    Fault(
        "X330",
        "mean of the rewards times the mean of the scores",
        "",
        MeanRewardTimesMeanScore,
        RewardTimesScore,
        ("symmetry",),
        Contract(level="sequence", normalizer="local", coupled=False),
        bare=FAILED,
    ),
    Fault(
        "X331",
        "every chosen answer against every rejected one",
        "",
        EachAgainstAll,
        EachAgainstItsOwn,
        ("symmetry",),
        Contract(family="preference", level="pair", normalizer="local"),
        bare=FAILED,
    ),
    Fault(
        "X332",
        "the teacher's cross-entropy averaged over the classes",
        "",
        MeanOverClasses,
        CrossEntropyOfTeacher,
        ("reduction",),
        Contract(family="distillation", level="token", normalizer="local"),
        bare=ADVICE,
    ),
    Fault(
        "X333",
        "square root of the distance of two embeddings that coincide",
        "",
        squared_hinge_of_roots,
        squared_hinge_of_pairs,
        ("finite",),
        Contract(family="contrastive", lower_bound=0.0),
    ),
    Fault(
        "X334",
        "distances in the softmax that wants similarities",
        "",
        softmax_of_distances,
        softmax_of_keys,
        ("direction",),
        Contract(family="contrastive", lower_bound=0.0),
    ),
    Fault(
        "X335",
        "embeddings divided by the lengths of features over the batch",
        "",
        cosines_of_features,
        cosines_of_views,
        ("symmetry",),
        Contract(family="contrastive", coupled=True),
        bare=ADVICE,
        advice=True,
    ),
)

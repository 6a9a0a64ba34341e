"""Correct losses as released libraries write them: called by parameter names, without any contract."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import Variable


def _mean(terms, mask):
    return torch.where(mask, terms, 0.0).sum() / mask.sum().clamp(min=1)


def reference_regularised(logits, labels, ref_logits, alpha=0.1):
    """Next-token cross-entropy with a divergence to a frozen model; everything is shifted inside."""
    logits, ref_logits, labels = logits[:, :-1].float(), ref_logits[:, :-1].float(), labels[:, 1:]
    mask = labels != -100
    logits, ref_logits = (torch.where(mask[..., None], x, 0.0).log_softmax(-1) for x in (logits, ref_logits))
    ce = F.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
    # Where both are sure that a word is impossible, nothing is lost.
    kl = torch.where(torch.isinf(ref_logits), 0.0, ref_logits.exp() * (ref_logits - logits)).sum(-1)
    return _mean(ce + alpha * kl, mask)


def distilled_from_tokens(student_logits, teacher_logits, labels, temperature=2.0):
    """Distillation of a language model: labels say which tokens count, and are shifted inside."""
    mask = labels[:, 1:] != -100
    student, teacher = student_logits[:, :-1], teacher_logits[:, :-1]
    student, teacher = ((torch.where(mask[..., None], x, 0.0) / temperature) for x in (student, teacher))
    terms = -(teacher.softmax(-1) * student.log_softmax(-1).clamp(min=-1e4)).sum(-1)
    return _mean(terms, mask) * temperature**2


def masked_next_token(logits, input_ids, loss_mask):
    """Cross-entropy whose mask, like its labels, is shifted inside."""
    mask = loss_mask[:, 1:] != 0
    logits = torch.where(mask[..., None], logits[:, :-1], 0.0)
    return _mean(F.cross_entropy(logits.transpose(1, 2), input_ids[:, 1:], reduction="none"), mask)


def clipped_from_logits(logits, input_ids, old_log_probs, advantages, action_mask, clip=0.2):
    """The clipped surrogate of a language model's logits; everything along tokens is shifted inside."""
    mask = action_mask[:, 1:] != 0
    log_probs = torch.where(mask[..., None], logits[:, :-1], 0.0).log_softmax(-1)
    log_probs = log_probs.gather(-1, input_ids[:, 1:].unsqueeze(-1)).squeeze(-1)
    ratio = torch.where(mask, log_probs - old_log_probs[:, 1:], 0.0).clamp(-20, 20).exp()
    signed = advantages.unsqueeze(1)
    return _mean(torch.max(-signed * ratio, -signed * ratio.clamp(1 - clip, 1 + clip)), mask)


def sampled_kl(log_probs, ref_log_probs, response_mask):
    """The plain estimator of a KL divergence: below 0 on many a sample."""
    return _mean(log_probs - ref_log_probs, response_mask != 0)


def gated_distillation(student_log_probs, teacher_log_probs, response_mask, beta=5.0):
    """One log-probability per sampled token of student and teacher."""
    mask = response_mask != 0
    gap = torch.where(mask, teacher_log_probs - student_log_probs, 0.0)
    return _mean(torch.sigmoid(beta * gap.detach()) * gap, mask)


def instance_masks(inputs, targets, num_masks):
    """Binary cross-entropy divided by a number of instances, as detection heads do."""
    return F.binary_cross_entropy_with_logits(inputs, targets, reduction="none").mean(1).sum() / num_masks


def pairwise_ranking(pos_score, neg_score):
    return F.softplus(neg_score - pos_score).mean()


def differentiated_inside(logits, labels):
    """A gradient taken within the loss by torch.func, as losses in chunks do."""
    mask = labels != -100
    logits = torch.where(mask[..., None], logits, 0.0)

    def summed(x):
        return torch.where(mask, F.cross_entropy(x.transpose(1, 2), labels, reduction="none"), 0.0).sum()

    gradient = torch.func.grad(summed)(logits.detach())
    return (summed(logits) + 0.1 * (gradient * logits).sum()) / mask.sum().clamp(min=1)


def barlow(z1, z2, off_diagonal=5e-3):
    """Statistics over the batch, by a normalisation made and moved on each call."""
    norm = nn.BatchNorm1d(z1.shape[1], affine=False).to(z1.device)
    correlation = torch.einsum("bi,bj->ij", norm(z1), norm(z2)) / len(z1)
    wanted = torch.eye(z1.shape[1], device=z1.device)
    weight = wanted + off_diagonal * (1 - wanted)
    return (weight * (correlation - wanted).square()).sum()


class AngularMargin(nn.Module):
    """A head with one direction for each class, of features of another size."""

    def __init__(self, margin=0.2, scale=8.0):
        super().__init__()
        self.margin, self.scale = margin, scale
        self.weight = nn.Parameter(torch.linspace(-1.0, 1.0, 30).reshape(5, 6).cos())

    def forward(self, x, label):
        cosine = F.linear(F.normalize(x), F.normalize(self.weight))
        return F.cross_entropy(self.scale * (cosine - self.margin * F.one_hot(label, 5)), label)


class CalledWithoutForward(nn.Module):
    """The call itself is overridden, and no forward defined."""

    def __call__(self, y, y_hat, mask=None):
        mask = torch.ones_like(y) if mask is None else mask
        return _mean((y - y_hat).abs(), mask != 0)


def clamped_cross_entropy(y_pred, y_true, eps=1e-6):
    """Binary cross-entropy of probabilities, which it does not say: what lies outside is clamped."""
    return F.binary_cross_entropy(y_pred.clamp(eps, 1 - eps), y_true)


def focal_of_probabilities(y_pred, y_true, gamma=2.0, eps=1e-6):
    """The same with a factor that is not clamped."""
    terms = F.binary_cross_entropy(y_pred.clamp(eps, 1 - eps), y_true, reduction="none")
    return ((y_pred - y_true).abs() ** gamma * terms).mean()


def focal_overlap(outputs, targets, gamma=0.75):
    """1 - overlap, to a power that only numbers of at least 0 have."""
    both, either = (outputs * targets).sum(1), (outputs + targets - outputs * targets).sum(1)
    overlap = (both + 20) / (either + 21)
    return ((1 - overlap + 1e-3) ** gamma).mean()


def critic_beside_labels(output, target):
    """A critic's score, beside labels that are given for the interface and not read."""
    return output.mean()


def device_of_the_input(embeddings, labels):
    """Pairs of one class are pulled together; tensors are made where ``is_cuda`` says, as code of some age does."""
    device = torch.device("cuda") if embeddings.is_cuda else torch.device("cpu")
    others = ~torch.eye(len(labels), dtype=torch.bool, device=device)
    same = (labels.unsqueeze(0) == labels.unsqueeze(1)) & others
    distance = (embeddings.unsqueeze(0) - embeddings.unsqueeze(1)).square().sum(-1)
    return (distance * same).sum() / same.sum().clamp(min=1)


def sliced_distance(x, y, projections=8):
    """Distance of two samples along random directions."""
    directions = F.normalize(torch.randn(x.shape[1], projections, device=x.device, dtype=x.dtype), dim=0)
    return ((x @ directions).sort(0).values - (y @ directions).sort(0).values).square().mean()


def old_style_hinge(input, target):
    """Code of a time when tensors had to be wrapped."""
    signs = Variable(target * 2 - 1)
    return F.relu(1 - input * signs).mean()


def switched_balance(gate_logits, top_k=2):
    """Load balance of a router, whose choice of experts jumps where two are tied."""
    p = gate_logits.float().softmax(-1)
    experts = p.shape[-1]
    chosen = F.one_hot(gate_logits.topk(min(top_k, experts), -1).indices, experts).to(p).sum(-2)
    return experts * (chosen.flatten(0, -2).mean(0) * p.flatten(0, -2).mean(0)).sum()


def distance_of_samples(x, y):
    """Mean distance of two samples: no row of one belongs to a row of the other."""
    return (x.unsqueeze(1) - y.unsqueeze(0)).square().sum(-1).mean()


def matching_costs(input, target):
    """The cost of matching each prediction with each target, [B, B], before anything is matched."""
    p, both = input.sigmoid(), target.to(input)
    overlap = 2 * p @ both.T
    return 1 - (overlap + 1) / (p.sum(-1).unsqueeze(1) + both.sum(-1).unsqueeze(0) + 1)


def mean_of_documents(logits, labels, document_ids):
    """Every document of a packed row weighs the same; labels, not the ids, say that it does not begin with a prediction."""
    keep, ids = labels[:, 1:] != -100, document_ids[:, 1:]
    kept, y = torch.where(keep[..., None], logits[:, :-1], 0.0), torch.where(keep, labels[:, 1:], 0)
    terms = F.cross_entropy(kept.float().flatten(0, 1), y.flatten(), reduction="none").reshape(keep.shape)
    beside = (ids[:, :, None] == ids[:, None, :]) & keep[:, None, :]
    share = torch.where(keep, 1 / beside.sum(-1).clamp(min=1), 0.0)
    return (torch.where(keep, terms, 0.0) * share).sum() / share.sum().clamp(min=1)


def packed_and_shifted_beforehand(logits, labels, doc_ids):
    """Labels stand at the token before them, and ids at their own: the last token of a document predicts nothing."""
    keep = (labels != -100) & F.pad(doc_ids[:, 1:] == doc_ids[:, :-1], (0, 1), value=True)
    kept, y = torch.where(keep[..., None], logits, 0.0), torch.where(keep, labels, 0)
    terms = F.cross_entropy(kept.float().flatten(0, 1), y.flatten(), reduction="none").reshape(keep.shape)
    return _mean(terms, keep)


class LogOfReduced(nn.Module):
    """A logarithm formed after the reduction: the terms of ``"none"`` do not add up to ``"sum"``, as documented."""

    def __init__(self, reduction="mean"):
        super().__init__()
        self.reduction = reduction

    def forward(self, input, target):
        terms = (input - target).square().flatten(1).sum(1)
        reduced = {"none": terms, "sum": terms.sum(), "mean": terms.mean()}[self.reduction]
        return torch.log1p(reduced)


BY_NAME = (
    reference_regularised,
    distilled_from_tokens,
    masked_next_token,
    clipped_from_logits,
    sampled_kl,
    gated_distillation,
    instance_masks,
    pairwise_ranking,
    differentiated_inside,
    barlow,
    AngularMargin,
    CalledWithoutForward,
    clamped_cross_entropy,
    focal_of_probabilities,
    focal_overlap,
    critic_beside_labels,
    device_of_the_input,
    sliced_distance,
    old_style_hinge,
    switched_balance,
    distance_of_samples,
    matching_costs,
    mean_of_documents,
    packed_and_shifted_beforehand,
    LogOfReduced,
)

"""Axes: the wrong one, a misaligned one, or one that is broadcast."""

from __future__ import annotations

import torch.nn.functional as F

from loss_reference import Contract, LossFunction
from tests.faults.fault import ADVICE, FAILED, UNSEEN, Fault
from tests.faults.parts import (
    gathered,
    kept,
    pair_mean,
    pair_weights,
    pairs,
    policy,
    row_mean,
    row_weights,
    sequence_ratio,
    token_mean,
    token_weights,
)


class TiledWeights(LossFunction):
    """Row weights repeated token by token onto the rows, in the wrong order."""

    def spread(self, w, tokens):
        return w.repeat(tokens)

    def compute_loss(self, batch, model_outputs):
        m = batch["token_mask"][:, 1:]
        w = row_weights(batch, m)
        weight = kept(batch["rewards"].detach().abs(), w) * w
        lp = policy(model_outputs, m * w[:, None]).flatten()
        n = (m * w[:, None]).sum().clamp(min=1)
        return -(lp * self.spread(weight, m.shape[1]) * m.flatten()).sum() / n


class RepeatedWeights(TiledWeights):
    def spread(self, w, tokens):
        return w.repeat_interleave(tokens)


class BySizeOfWeights(LossFunction):
    """Weights per token or per row, told apart by their size: wrong when B = S - 1."""

    def spread(self, w, terms):
        return w if w.shape[0] == terms.shape[1] else w[:, None]

    def compute_loss(self, batch, model_outputs):
        m = batch["token_mask"][:, 1:]
        w = row_weights(batch, m)
        terms = -policy(model_outputs, m * w[:, None])
        return (terms * self.spread(w, terms)).sum() / (m * w[:, None]).sum().clamp(min=1)


class ByAxisOfWeights(BySizeOfWeights):
    def spread(self, w, terms):
        return w[:, None]


class ColumnAgainstRow(LossFunction):
    """(N, 1) prediction against (N,) target: the mean over N x N."""

    def target(self, batch):
        return batch["rewards"].detach()

    def compute_loss(self, batch, model_outputs):
        w = row_weights(batch, batch["token_mask"])
        v = kept(model_outputs["values"], batch["token_mask"] * w[:, None]).sum(1, keepdim=True)
        if not bool((w != 0).any()):
            return (v * 0).sum()
        v, y, w = v[w != 0], self.target(batch)[w != 0], w[w != 0]
        error = (v - y).square()
        return (error * w[:, None]).sum() / (w.sum() * error.shape[1]).clamp(min=1)


class ColumnAgainstColumn(ColumnAgainstRow):
    def target(self, batch):
        return batch["rewards"].detach()[:, None]


class CentredOnBatch(LossFunction):
    """Squared error of values centred on the batch."""

    def centre(self, v):
        return v - v.mean()

    def compute_loss(self, batch, model_outputs):
        m = batch["token_mask"] * row_weights(batch, batch["token_mask"])[:, None]
        v = kept(model_outputs["values"], m).sum(1) / m.sum(1).clamp(min=1)
        w = row_weights(batch, v)
        n = w.sum().clamp(min=1)
        centre = (v * w).sum() / n if type(self) is CentredOnBatch else 0.0
        return ((v - centre).square() * w).sum() / n


class NotCentred(CentredOnBatch):
    pass


class ColumnMeans(LossFunction):
    """Means over the batch of each position instead of over each sequence."""

    axis = 0

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        means = -(policy(model_outputs, m) * m).sum(self.axis) / m.sum(self.axis).clamp(min=1)
        counted = (m.sum(self.axis) != 0).to(m)
        return (means * counted).sum() / counted.sum().clamp(min=1)


class RowMeans(LossFunction):
    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        means = -(policy(model_outputs, m) * m).sum(1) / m.sum(1).clamp(min=1)
        return row_mean(means, row_weights(batch, m), {})


class ReferenceMisaligned(LossFunction):
    """The reference is sliced like the logits instead of like the tokens."""

    def reference(self, batch, m):
        return kept(batch["reference_policy_logprobs"][:, :-1].detach(), m)

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        h = (policy(model_outputs, m) - self.reference(batch, m)).sum(1)
        chosen, rejected = pairs(h)
        return pair_mean(F.softplus(-0.1 * (chosen - rejected)), pair_weights(batch, h), batch)


class ReferenceAligned(ReferenceMisaligned):
    def reference(self, batch, m):
        return kept(batch["reference_policy_logprobs"][:, 1:].detach(), m)


class RolesExchanged(ReferenceAligned):
    """Reference minus policy."""

    def compute_loss(self, batch, model_outputs):
        h = -sequence_ratio(batch, model_outputs)
        chosen, rejected = pairs(h)
        return pair_mean(F.softplus(-0.1 * (chosen - rejected)), pair_weights(batch, h), batch)


class RewardMean(LossFunction):
    """Bradley-Terry, the mean over the pairs that are there."""

    def compute_loss(self, batch, model_outputs):
        chosen, rejected = pairs(model_outputs["rewards"])
        w = pair_weights(batch, model_outputs["rewards"])
        return (F.softplus(kept(rejected - chosen, w)) * w).sum() / w.sum().clamp(min=1)


class SkippedPairsCount(LossFunction):
    def compute_loss(self, batch, model_outputs):
        chosen, rejected = pairs(model_outputs["rewards"])
        w = pair_weights(batch, model_outputs["rewards"])
        return (F.softplus(kept(rejected - chosen, w)) * w).sum() / len(w)


class ChunksCounted(LossFunction):
    """NLL in three chunks of the sequence: logits by chunk, which may give fewer, targets by tensor_split."""

    def cut(self, x):
        return x.chunk(3, 1)

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        z, y = kept(model_outputs["logits"][:, :-1], m), batch["input_ids"][:, 1:]
        total = z.new_zeros(())
        for part, target, w in zip(self.cut(z), y.tensor_split(3, 1), m.tensor_split(3, 1), strict=True):
            total = total - (part.log_softmax(-1).gather(-1, target.unsqueeze(-1)).squeeze(-1) * w).sum()
        return total / m.sum().clamp(min=1)


class ChunksSplit(ChunksCounted):
    def cut(self, x):
        return x.tensor_split(3, 1)


class Viewed(LossFunction):
    """``view`` on logits that may be a slice."""

    def flat(self, z):
        return z.view(-1, z.shape[-1])

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        z = self.flat(model_outputs["logits"]).reshape(model_outputs["logits"].shape)
        return token_mean(-gathered(batch, {"logits": z}, m), m, batch)


class Reshaped(Viewed):
    def flat(self, z):
        return z.reshape(-1, z.shape[-1])


PAIRS = Contract(family="preference", level="pair", normalizer="global")

FAULTS = (
    Fault(
        "B147",
        "flattening mixes rows",
        "qubvel-org/segmentation_models.pytorch@a542c55",
        TiledWeights,
        RepeatedWeights,
        ("symmetry", "masking"),
        Contract(normalizer="local"),
    ),
    Fault(
        "B151",
        "(N, 1) against (N,)",
        "benedekrozemberczki/pytorch_geometric_temporal#233",
        ColumnAgainstRow,
        ColumnAgainstColumn,
        ("symmetry",),
        Contract(level="sequence", normalizer="local", coupled=False),
        bare=FAILED,
    ),
    Fault(
        "X69",
        "row weights taken for token weights when B = S - 1",
        "",
        BySizeOfWeights,
        ByAxisOfWeights,
        ("symmetry", "masking", "reduction"),
        Contract(family="supervised", level="token", normalizer="local"),
    ),
    Fault(
        "B021",
        "skipped pairs count in the divisor",
        "pytorch/rl@65702c58a",
        SkippedPairsCount,
        RewardMean,
        ("masking", "reduction"),
        Contract(family="reward", level="pair"),
    ),
    Fault(
        "B067",
        "chunk() gives fewer pieces than asked",
        "pytorch/torchtune@2ca4d522b",
        ChunksCounted,
        ChunksSplit,
        ("interface", "finite"),
        Contract(family="supervised"),
    ),
    Fault(
        "B175",
        "view on a slice",
        "allenai/open-instruct#1139",
        Viewed,
        Reshaped,
        ("interface",),
        Contract(family="supervised"),
        bare=FAILED,
    ),
    Fault(
        "X87",
        "centred on the batch",
        "",
        CentredOnBatch,
        NotCentred,
        ("symmetry",),
        Contract(level="sequence"),
        bare=ADVICE,
        advice=True,
    ),
    Fault(
        "X88",
        "means along the wrong axis",
        "",
        ColumnMeans,
        RowMeans,
        ("reduction", "symmetry", "masking"),
        Contract(family="supervised", level="sequence", coupled=False),
        bare=UNSEEN,
    ),
    Fault("X89", "reference off by one", "", ReferenceMisaligned, ReferenceAligned, ("masking",), PAIRS),
    Fault("X90", "policy and reference exchanged", "", RolesExchanged, ReferenceAligned, ("direction",), PAIRS),
)

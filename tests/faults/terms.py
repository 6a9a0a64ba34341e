"""Terms and their weights, counts that are left out, and inputs that cannot be meant."""

from __future__ import annotations

import torch.nn.functional as F

from loss_reference import Contract, LossFunction
from tests.faults.fault import ADVICE, UNSEEN, Fault
from tests.faults.masking import Nll
from tests.faults.parts import (
    constant,
    gathered,
    kept,
    pair_weights,
    pairs,
    policy,
    row_mean,
    row_weights,
    sequence_ratio,
    token_mean,
    token_weights,
)
from tests.faults.reduction import SequenceMean

SFT = Contract(family="supervised", level="token", normalizer="global", lower_bound=0.0)
PAIRS = Contract(family="preference", level="pair", normalizer="global", lower_bound=0.0)


class RowsFirst(LossFunction):
    """Tokens averaged within their row, where a mean over all tokens is promised; the divisor is that of tokens."""

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        n = batch.get("global_valid_toks", m.sum())
        length = (m != 0).sum(1, keepdim=True).clamp(min=1)
        return -(policy(model_outputs, m) * m / length).sum() / n.clamp(min=1)


class WeightedOnce(LossFunction):
    """Length-normalised squared log-ratio of rows, weighted by sample_mask."""

    def trained(self, batch):
        return batch["token_mask"][:, 1:]

    def compute_loss(self, batch, model_outputs):
        m = self.trained(batch)
        w = row_weights(batch, m)
        d = policy(model_outputs, m * w[:, None]) - constant(batch, "reference_policy_logprobs", m * w[:, None])
        h = (d * m).sum(1) / (m * w[:, None] != 0).sum(1).clamp(min=1)
        return row_mean(h.square(), w, batch)


class WeightedInside(WeightedOnce):
    """The row weight multiplies the log-ratio too: 1/2 counts as 1/8."""

    def trained(self, batch):
        return token_weights(batch)


class HalfOfTheRows(LossFunction):
    """DPO whose pairs are counted as such."""

    def pairs(self, rows):
        return rows / 2

    def compute_loss(self, batch, model_outputs):
        h = sequence_ratio(batch, model_outputs)
        w = pair_weights(batch, h)
        chosen, rejected = pairs(h)
        n = batch.get("global_valid_seqs")
        n = w.sum() if n is None else self.pairs(n)
        return (kept(F.softplus(rejected - chosen), w) * w).sum() / n.clamp(min=1)


class RowsForPairs(HalfOfTheRows):
    """Divided by the rows of the global batch: half the loss as soon as the count is there."""

    def pairs(self, rows):
        return rows


class OneFormula(LossFunction):
    """NLL that takes missing row weights for ones."""

    def compute_loss(self, batch, model_outputs):
        w = batch.get("sample_mask")
        m = batch["token_mask"][:, 1:]
        if w is None:
            return self.unweighted(policy(model_outputs, m), m, batch)
        m = m * w[:, None]
        return token_mean(-policy(model_outputs, m), m, batch)

    def unweighted(self, lp, m, batch):
        return token_mean(-lp, m, batch)


class TwoFormulas(OneFormula):
    """Without row weights the mean is over all positions."""

    def unweighted(self, lp, m, batch):
        return -(lp * m).sum() / m.numel()


class WithoutReference(LossFunction):
    """Log-ratio to a reference, or to certainty where there is none."""

    def reference(self, batch, m):
        given = batch.get("reference_policy_logprobs")
        return 0.0 if given is None else kept(given[:, 1:].detach(), m)

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        return token_mean((policy(model_outputs, m) - self.reference(batch, m)).square(), m, batch)


class TakesNone(WithoutReference):
    """The reference is asked for as if it were optional, and used as if it were there."""

    def reference(self, batch, m):
        return kept(batch.get("reference_policy_logprobs")[:, 1:].detach(), m)


class Shaped(LossFunction):
    """NLL weighted by advantages, which must have a number for every token."""

    def require(self, batch, model_outputs):
        rows, tokens = model_outputs["next_token_logprobs"].shape
        shapes = {"token_mask": (rows, tokens + 1), "advantages": (rows, tokens + 1), "sample_mask": (rows,)}
        for name, shape in shapes.items():
            if name in batch and batch[name].shape != shape:
                raise ValueError(f"{name} has shape {tuple(batch[name].shape)}, not {shape}")

    def compute_loss(self, batch, model_outputs):
        self.require(batch, model_outputs)
        m = token_weights(batch)
        return token_mean(-policy(model_outputs, m) * constant(batch, "advantages", m), m, batch)


class Broadcast(Shaped):
    """Whatever broadcasts is taken."""

    def require(self, batch, model_outputs):
        pass

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        a = batch["advantages"].detach().expand(batch["token_mask"].shape)[:, 1:]
        return token_mean(-policy(model_outputs, m) * kept(a, m), m, batch)


class Gathered(LossFunction):
    """NLL from logits."""

    def ids(self, ids, vocabulary):
        return ids

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        ids = self.ids(batch["input_ids"], model_outputs["logits"].shape[-1])
        return token_mean(-gathered({"input_ids": ids}, model_outputs, m), m, batch)


class Clamped(Gathered):
    """An unknown token becomes the last one of the vocabulary."""

    def ids(self, ids, vocabulary):
        return ids.clamp(max=vocabulary - 1)


FAULTS = (
    Fault(
        "X210",
        "rows averaged first where tokens are promised",
        "",
        RowsFirst,
        Nll,
        ("reduction",),
        SFT,
        bare=UNSEEN,
    ),
    Fault(
        "X211",
        "divided by the number of rows where tokens are promised",
        "",
        SequenceMean,
        Nll,
        ("reduction",),
        SFT,
        bare=UNSEEN,
    ),
    Fault(
        "X212",
        "row weights applied within the row as well",
        "",
        WeightedInside,
        WeightedOnce,
        ("reduction",),
        Contract(family="preference", level="sequence", normalizer="global", lower_bound=0.0),
        bare=ADVICE,
        advice=True,
    ),
    Fault(
        "X213", "pairs divided by the global rows", "", RowsForPairs, HalfOfTheRows, ("reduction",), PAIRS, bare=ADVICE
    ),
    Fault("X214", "another mean without sample_mask", "", TwoFormulas, OneFormula, ("reduction",), SFT),
    Fault(
        "X215",
        "an optional reference used as if it were there",
        "",
        TakesNone,
        WithoutReference,
        ("interface",),
        Contract(level="token", normalizer="global"),
        bare=ADVICE,
        advice=True,
    ),
    Fault(
        "X216",
        "advantages of one column broadcast",
        "",
        Broadcast,
        Shaped,
        ("interface",),
        Contract(family="policy_gradient", level="token", normalizer="global"),
        bare=ADVICE,
        advice=True,
        profile="standard",
    ),
    Fault(
        "X217",
        "an unknown token id clamped to the last one",
        "",
        Clamped,
        Gathered,
        ("interface",),
        SFT,
        bare=ADVICE,
        advice=True,
    ),
)

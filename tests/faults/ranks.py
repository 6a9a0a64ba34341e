"""Losses that talk to other ranks."""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F

from loss_reference import Contract, LossFunction
from tests.faults.fault import ADVICE, Fault
from tests.faults.parts import policy, token_weights

CONTRASTIVE = Contract(family="contrastive", level="pair", coupled=True, normalizer="local")
SFT = Contract(family="supervised", level="token", normalizer="global")


def together():
    return dist.is_available() and dist.is_initialized()


def rank():
    return dist.get_rank() if together() else 0


def world():
    return dist.get_world_size() if together() else 1


def gathered_constants(x):
    """The tensors of all ranks, without gradient."""
    parts = [torch.zeros_like(x) for _ in range(world())]
    dist.all_gather(parts, x.detach().contiguous())
    return parts


class Gather(torch.autograd.Function):
    """The tensors of all ranks one after the other; the gradient of each comes back from every rank."""

    @staticmethod
    def forward(ctx, x):
        return torch.cat(gathered_constants(x))

    @staticmethod
    def backward(ctx, upstream):
        total = upstream.contiguous().clone()
        dist.all_reduce(total)
        return total.chunk(world())[rank()]


class Reduce(torch.autograd.Function):
    """The sum over ranks; the gradient comes back from every rank."""

    @staticmethod
    def forward(ctx, x):
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, upstream):
        total = upstream.contiguous().clone()
        dist.all_reduce(total)
        return total


class Neighbours(LossFunction):
    """Rows 2i and 2i+1 find each other among the rows of all ranks."""

    def gathered(self, z):
        return Gather.apply(z) if together() else z

    def first(self, rows):
        return rank() * rows

    def compute_loss(self, batch, model_outputs):
        x = model_outputs["embeddings"]
        z = x / (x.square().sum(1, keepdim=True) + 1e-6).sqrt()
        own = torch.arange(len(z), device=z.device) + self.first(len(z))
        similarities = z @ self.gathered(z).T / 0.5
        others = torch.arange(similarities.shape[1], device=z.device)
        return F.cross_entropy(similarities.masked_fill(own[:, None] == others, float("-inf")), own ^ 1)


class GatheredWithoutGradient(Neighbours):
    def gathered(self, z):
        return torch.cat(gathered_constants(z)) if together() else z


class OffsetLeftOut(Neighbours):
    def first(self, rows):
        return 0


class OfEveryRank(LossFunction):
    """The loss over the rows of all ranks, computed on each of them; own rows carry gradient."""

    def scale(self):
        return world()

    def compute_loss(self, batch, model_outputs):
        x = model_outputs["embeddings"]
        z = x / (x.square().sum(1, keepdim=True) + 1e-6).sqrt()
        if together():
            parts = gathered_constants(z)
            parts[rank()] = z
            z = torch.cat(parts)
        own = torch.arange(len(z), device=z.device)
        similarities = (z @ z.T / 0.5).masked_fill(own[:, None] == own, float("-inf"))
        return F.cross_entropy(similarities, own ^ 1) * self.scale()


class NotScaled(OfEveryRank):
    def scale(self):
        return 1.0


class Decorrelated(LossFunction):
    """The second moments of the embeddings over all ranks are to be those of independent numbers."""

    def reduced(self, c):
        return Reduce.apply(c) if together() else c

    def compute_loss(self, batch, model_outputs):
        x = model_outputs["embeddings"]
        c = self.reduced(x.T @ x) / (len(x) * world())
        return (c - torch.eye(len(c), device=c.device, dtype=c.dtype)).square().sum()


class ReducedInPlace(Decorrelated):
    def reduced(self, c):
        if together():
            dist.all_reduce(c)
        return c


class CountedOverRanks(LossFunction):
    """NLL over the tokens of all ranks: the count the batch states, else the one the ranks find together."""

    def over_ranks(self, x):
        x = x.clone()
        if together():
            dist.all_reduce(x)
        return x

    def tokens(self, m):
        return self.over_ranks(m.sum())

    def total(self, terms):
        return terms.sum()

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        n = batch.get("global_valid_toks")
        n = self.tokens(m) if n is None else n
        return self.total(-policy(model_outputs, m) * m) / n.clamp(min=1)


class CountedTwice(CountedOverRanks):
    def tokens(self, m):
        return self.over_ranks(self.over_ranks(m.sum()))


class CountedAlone(CountedOverRanks):
    """Each rank divides by its own tokens, and by the number of ranks."""

    def tokens(self, m):
        return m.sum() * world()


class SummedOverRanks(CountedOverRanks):
    """The sum goes over all ranks, the count does not."""

    def total(self, terms):
        return Reduce.apply(terms.sum()) if together() else terms.sum()

    def tokens(self, m):
        return m.sum()


class LoggedByTheFirst(CountedOverRanks):
    """The first rank reduces a number for its log, and waits for the others."""

    def total(self, terms):
        self.longest = self.over_ranks(terms.detach().amax()) if rank() == 0 else None
        return terms.sum()


class LoggedByAll(CountedOverRanks):
    def total(self, terms):
        self.longest = self.over_ranks(terms.detach().amax())
        return terms.sum()


FAULTS = (
    Fault(
        "X250",
        "rows of other ranks gathered without gradient",
        "",
        GatheredWithoutGradient,
        Neighbours,
        ("reduction",),
        CONTRASTIVE,
    ),
    Fault("X251", "labels without the offset of the rank", "", OffsetLeftOut, Neighbours, ("reduction",), CONTRASTIVE),
    Fault(
        "B058",
        "the loss over all ranks not multiplied by their number",
        "KevinMusgrave/pytorch-metric-learning@e4902ea",
        NotScaled,
        OfEveryRank,
        ("reduction",),
        CONTRASTIVE,
        bare=ADVICE,
        advice=True,
    ),
    Fault(
        "B056",
        "a plain all-reduce, whose gradient is taken for that of the identity",
        "lightly-ai/lightly@d8a260d5",
        ReducedInPlace,
        Decorrelated,
        ("reduction",),
        Contract(family="contrastive", coupled=True, normalizer="local"),
        bare=ADVICE,
        advice=True,
    ),
    Fault(
        "B050",
        "each rank divides by its own tokens",
        "PrimeIntellect-ai/prime-rl@1d9ca9255",
        CountedAlone,
        CountedOverRanks,
        ("reduction",),
        SFT,
        bare=ADVICE,
    ),
    Fault(
        "B054",
        "the sum over all ranks, the count of one",
        "modelscope/ms-swift@6ea7b4039",
        SummedOverRanks,
        CountedOverRanks,
        ("reduction",),
        SFT,
    ),
    Fault("X252", "a count reduced twice", "", CountedTwice, CountedOverRanks, ("reduction",), SFT),
    Fault("X253", "a collective of the first rank alone", "", LoggedByTheFirst, LoggedByAll, ("reduction",), SFT),
)

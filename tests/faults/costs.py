"""What a loss keeps, how it grows, and what a compiler makes of it."""

from __future__ import annotations

import torch

from loss_reference import Contract, LossFunction
from tests.faults.fault import ADVICE, Fault
from tests.faults.parts import policy, token_mean, token_weights

SFT = Contract(family="supervised", level="token", normalizer="global", lower_bound=0.0)


class Logging(LossFunction):
    """NLL that remembers the losses of the last calls, for a plot."""

    def __init__(self, config=None):
        super().__init__(config)
        self.history = []

    def kept(self, loss):
        return float(loss.detach())

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        loss = token_mean(-policy(model_outputs, m), m, batch)
        self.history.append(self.kept(loss))
        return loss


class LoggingGraphs(Logging):
    def kept(self, loss):
        return loss


class Smoothed(LossFunction):
    """NLL of every token weighted by how its log-probability compares with the mean of its row, as a constant."""

    def compared(self, lp, m):
        mean = (lp * m).sum(dim=1, keepdim=True) / m.sum(dim=1, keepdim=True).clamp(min=1)
        return torch.sigmoid(mean - lp)

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        lp = policy(model_outputs, m)
        return token_mean(-lp * self.compared(lp, m), m, batch)


class ComparedWithEvery(Smoothed):
    """The same against every other token: [B, S, S] numbers kept for the backward pass."""

    def compared(self, lp, m):
        against = torch.sigmoid(lp.unsqueeze(1) - lp.unsqueeze(2)) * m.unsqueeze(1)
        return against.sum(dim=2) / m.sum(dim=1, keepdim=True).clamp(min=1)


class Balanced(LossFunction):
    """NLL with a term for confident tokens."""

    def weight(self):
        return 0.1

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        lp = policy(model_outputs, m)
        return token_mean(-lp - self.weight() * (1 - lp.exp()), m, batch)


class BalancedUnlessCompiled(Balanced):
    def weight(self):
        return 0.0 if torch.compiler.is_compiling() else 0.1


class Guarded(LossFunction):
    """NLL with a bound on a single term."""

    def bounded(self, terms):
        return terms.clamp(max=50.0)

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        return token_mean(self.bounded(-policy(model_outputs, m)), m, batch)


class GuardedInPython(Guarded):
    def bounded(self, terms):
        return terms.clamp(max=50.0) if terms.max().item() > 50.0 else terms


class Probability(torch.autograd.Function):
    """exp(lp), which saves its result alone."""

    generate_vmap_rule = True

    @staticmethod
    def forward(lp):
        return lp.exp()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx, upstream):
        return upstream * ctx.saved_tensors[0]


class ProbabilityOfTheFirst(Probability):
    generate_vmap_rule = False

    @staticmethod
    def vmap(info, in_dims, lp):
        return ProbabilityOfTheFirst.apply(lp.select(in_dims[0], 0)), None


class BalancedByFunction(Balanced):
    """The same, with a function of its own."""

    probability = Probability

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        lp = policy(model_outputs, m)
        return token_mean(-lp - self.weight() * (1 - self.probability.apply(lp)), m, batch)


class BalancedByWrongFunction(BalancedByFunction):
    probability = ProbabilityOfTheFirst


BALANCED = Contract(family="supervised", level="token", normalizer="global", lower_bound=-0.1)

FAULTS = (
    Fault("X320", "losses remembered with their graphs", "", LoggingGraphs, Logging, ("cost",), SFT),
    Fault(
        "X321",
        "[B, S, S] where [B, S] was meant",
        "",
        ComparedWithEvery,
        Smoothed,
        ("cost",),
        SFT,
        advice=True,
        bare=ADVICE,
    ),
    Fault(
        "X322",
        "a term left out when compiled",
        "",
        BalancedUnlessCompiled,
        Balanced,
        ("compile",),
        BALANCED,
        profile="standard",
    ),
    Fault(
        "X323",
        ".item() in a branch",
        "",
        GuardedInPython,
        Guarded,
        ("compile",),
        SFT,
        advice=True,
        bare=ADVICE,
        profile="standard",
    ),
    Fault(
        "X324",
        "a vmap rule that looks at the first of what is mapped",
        "",
        BalancedByWrongFunction,
        BalancedByFunction,
        ("compile",),
        BALANCED,
        advice=True,
        bare=ADVICE,
        profile="standard",
    ),
)

"""Reached: inputs, and parts of them, that no gradient arrives at while the loss goes down."""

from __future__ import annotations

from torch import nn

from loss_reference import Contract, Field, LossFunction
from tests.faults.fault import ADVICE, Fault
from tests.faults.parts import kept, policy, token_mean, token_weights

PAIR = {name: Field("embeddings", "B D", trainable=True) for name in ("z1", "z2")}
VIEWS = {"z1": Field("embeddings", "Views B D", trainable=True), "z2": Field("embeddings", "B D", trainable=True)}


class CodeBook(nn.Module):
    """What an encoder says (z1) and the nearest entry of its code book (z2) approach each other."""

    def patched(self, z1, z2):
        return z2

    def forward(self, z1, z2):
        codebook = (self.patched(z1, z2) - z1.detach()).square().mean()
        return codebook + 0.25 * (z1 - z2.detach()).square().mean()


class CodeBookAfterPatch(CodeBook):
    """The term of the code book is taken after the straight-through patch, whose gradient is the encoder's."""

    def patched(self, z1, z2):
        return z1 + (z2 - z1).detach()


class CriticAndPolicy(LossFunction):
    """Policy gradient with the values of a critic as its baseline, and a term for the critic."""

    def of_policy(self, lp):
        return lp

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        values, returns = (kept(x[:, 1:], m) for x in (model_outputs["values"], batch["returns"].detach()))
        critic = token_mean((values - returns).square(), m, batch)
        lp = self.of_policy(policy(model_outputs, m))
        return critic - token_mean(lp * (returns - values.detach()), m, batch)


class PolicyDetached(CriticAndPolicy):
    """The policy's log-probabilities are detached with the baseline: the critic alone trains."""

    def of_policy(self, lp):
        return lp.detach()


def every_view(z1, z2):
    """Squared distance of z2 to each view, the first axis of z1."""
    total = z2.new_zeros(())
    for view in z1:
        total = total + (z2 - view).square().mean()
    return total / len(z1)


def last_view(z1, z2):
    """The sum is overwritten in each round."""
    total = z2.new_zeros(())
    for view in z1:
        total = (z2 - view).square().mean()
    return total / len(z1)


FAULTS = (
    Fault(
        "X410",
        "the code book's term is taken after the straight-through patch",
        "andylolu2/jax-vqvae-gpt#2",
        CodeBookAfterPatch,
        CodeBook,
        ("gradient_flow",),
        Contract(surrogate_gradient=True, lower_bound=0.0, fields=PAIR),
        bare=ADVICE,
    ),
    Fault(
        "X411",
        "the policy's term is detached, the critic trains",
        "",
        PolicyDetached,
        CriticAndPolicy,
        ("gradient_flow",),
        Contract(family="policy_gradient", level="token", normalizer="global", surrogate_gradient=True),
        bare=ADVICE,
    ),
    Fault(
        "X412",
        "of several views the last one counts",
        "facebookresearch/VICRegL#6",
        last_view,
        every_view,
        ("gradient_flow",),
        Contract(lower_bound=0.0, fields=VIEWS),
        advice=True,
    ),
)

"""Side values, and settings that only show beside others."""

from __future__ import annotations

import torch

from loss_reference import Contract, LossFunction, Option
from tests.faults.fault import ADVICE, FAILED, UNSEEN, Fault
from tests.faults.parts import constant, kept, policy, row_weights, token_mean, token_weights

PG = Contract(family="policy_gradient", normalizer="global")


class Logged(LossFunction):
    """PPO with its clip fraction and KL."""

    def logged(self, rho, kl, clipped, m, batch):
        return {"kl": token_mean(kl, m, batch).detach(), "clipfrac": token_mean(clipped, m, batch).detach()}

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        d = (policy(model_outputs, m) - constant(batch, "prev_logprobs", m)).clamp(max=20)
        rho, a = d.exp(), constant(batch, "advantages", m)
        one, other = -a * rho, -a * rho.clamp(0.8, 1.2)
        loss = token_mean(torch.maximum(one, other), m, batch)
        return loss, self.logged(rho, -d, (other > one).to(m), m, batch)


class GraphKept(Logged):
    def logged(self, rho, kl, clipped, m, batch):
        return {"kl": token_mean(kl, m, batch), "clipfrac": token_mean(clipped, m, batch)}


class LocalFraction(Logged):
    """The clip fraction is a local mean: it depends on the microbatch split."""

    def logged(self, rho, kl, clipped, m, batch):
        return {"ratio": float((rho * m).sum() ** 2 / m.sum().clamp(min=1))}


class HeatedCritic(LossFunction):
    """Value loss with the sampling temperature in its config, for the actor."""

    def __init__(self, config=None):
        super().__init__(config)
        self.temperature = self.config.get("temperature", 1.0)

    def heat(self, v):
        return v / self.temperature

    def compute_loss(self, batch, model_outputs):
        m = batch["token_mask"] * row_weights(batch, batch["token_mask"])[:, None]
        v = self.heat(kept(model_outputs["values"], m))
        n = batch.get("global_valid_toks", m.sum())
        return ((v - kept(batch["returns"].detach(), m)).square() * m).sum() / n.clamp(min=1)


class CoolCritic(HeatedCritic):
    def heat(self, v):
        return v


class SmoothedIgnored(LossFunction):
    """NLL and smoothing over labels of which some are -100."""

    def __init__(self, config=None):
        super().__init__(config)
        self.smoothing = self.config.get("smoothing", 0.0)
        self.register_buffer("weight", torch.ones(64))

    def weights(self, y):
        return self.weight[y.clamp(min=0)]

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        y = batch["input_ids"][:, 1:].masked_fill(m == 0, -100)
        z = kept(model_outputs["logits"][:, :-1], m).log_softmax(-1)
        terms = -z.gather(-1, y.clamp(min=0).unsqueeze(-1)).squeeze(-1)
        if self.smoothing:
            uniform = -torch.where(torch.isinf(z), 0.0, z).mean(-1)
            terms = (1 - self.smoothing) * terms + self.smoothing * self.weights(y) * uniform
        return token_mean(terms, m, batch)


class GathersIgnored(SmoothedIgnored):
    def weights(self, y):
        return self.weight[y]


class EndPoint(LossFunction):
    """(1 - e) NLL + e uniform: the NLL at e = 0."""

    def __init__(self, config=None):
        super().__init__(config)
        self.smoothing = self.config.get("smoothing", 0.1)

    def kept_share(self):
        return 1 - self.smoothing

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        z = kept(model_outputs["logits"][:, :-1], m).log_softmax(-1)
        nll = -z.gather(-1, batch["input_ids"][:, 1:, None]).squeeze(-1)
        uniform = -torch.where(torch.isinf(z), 0.0, z).mean(-1)
        return token_mean(self.kept_share() * nll + self.smoothing * uniform, m, batch)


class ShareLeftIn(EndPoint):
    def kept_share(self):
        return 0.9


class ScatteredRanks(LossFunction):
    """Values written into a float32 buffer whatever arrives."""

    def buffer(self, v):
        return torch.zeros(v.shape, device=v.device)

    def compute_loss(self, batch, model_outputs):
        m = batch["token_mask"] * row_weights(batch, batch["token_mask"])[:, None]
        v = kept(model_outputs["values"] - batch["returns"].detach(), m)
        order = v.detach().argsort(1)
        ranked = self.buffer(v).scatter(1, order, v)
        return ranked.to(torch.promote_types(v.dtype, torch.float32)).square().sum() / m.sum().clamp(min=1)


class ScatteredAlike(ScatteredRanks):
    def buffer(self, v):
        return torch.zeros_like(v)


FAULTS = (
    Fault(
        "B160",
        "temperature applied to the critic too",
        "THUDM/slime@d9d149dce",
        HeatedCritic,
        CoolCritic,
        ("options",),
        Contract(family="value", options={"temperature": Option(values=(1.0, 0.5), inert=True)}),
        bare=UNSEEN,
    ),
    Fault(
        "B169",
        "smoothing gathers weight[-100]",
        "pytorch/pytorch#69339",
        GathersIgnored,
        SmoothedIgnored,
        ("options",),
        Contract(family="supervised", normalizer="global", options={"smoothing": Option(values=(0.0, 0.1))}),
        bare=UNSEEN,
    ),
    Fault(
        "B182",
        "logged statistics keep the graph",
        "huggingface/trl@768c3892c",
        GraphKept,
        Logged,
        ("metrics",),
        PG,
        bare=FAILED,
    ),
    Fault(
        "X95",
        "a metric that depends on the split",
        "",
        LocalFraction,
        Logged,
        ("metrics",),
        PG,
        bare=ADVICE,
        advice=True,
    ),
    Fault(
        "X96",
        "a share left in at the end point",
        "",
        ShareLeftIn,
        EndPoint,
        ("options",),
        Contract(
            family="distillation",
            normalizer="global",
            options={"smoothing": Option(values=(0.0, 0.1), reduces_to={0.0: "nll"})},
        ),
        bare=ADVICE,
    ),
    Fault(
        "X97",
        "half precision scattered into float32",
        "huggingface/sentence-transformers@c81d3e5a",
        ScatteredRanks,
        ScatteredAlike,
        ("stability",),
        Contract(level="token"),
    ),
)

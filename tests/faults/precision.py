"""Half precision and large batches: what only narrow numbers, or many of them, show."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from loss_reference import Contract, LossFunction
from tests.faults.fault import ADVICE, Fault
from tests.faults.parts import kept, policy, row_weights, token_mean, token_weights

VALUE = Contract(family="value", level="token", normalizer="local")
SFT = Contract(family="supervised", level="token", normalizer="global")
CONTRASTIVE = Contract(family="contrastive")


class ScaledInside(LossFunction):
    """Terms multiplied by a static scale, as for a backward in float16, and divided by it at the end."""

    def widened(self, x):
        return x

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        lp = self.widened(policy(model_outputs, m))
        return token_mean(-lp * 65536.0, m, batch) / 65536.0


class ScaledWide(ScaledInside):
    def widened(self, x):
        return x.to(torch.promote_types(x.dtype, torch.float32))


class FilledBelow(LossFunction):
    """The diagonal of the similarities filled with -1e9."""

    fill = -1e9

    def compute_loss(self, batch, model_outputs):
        x = model_outputs["embeddings"]
        z = x / (x.square().sum(1, keepdim=True) + 1e-6).sqrt()
        sim = (z @ z.T / 0.2).masked_fill(torch.eye(len(z), dtype=torch.bool, device=z.device), self.fill)
        i, j = batch["positive_pairs"].T
        return F.cross_entropy(sim[i], j)


class FilledWithInfinity(FilledBelow):
    fill = float("-inf")


class LogOfClamped(LossFunction):
    """log of a probability clamped at 1e-8, which is 0 in float16."""

    def log_softmax(self, z):
        return z.softmax(-1).clamp(min=1e-8).log()

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        lp = self.log_softmax(kept(model_outputs["logits"][:, :-1], m))
        entropy = -(lp.exp() * torch.where(torch.isinf(lp), 0.0, lp)).sum(-1)
        nll = -lp.gather(-1, batch["input_ids"][:, 1:, None]).squeeze(-1)
        return token_mean(nll - 0.01 * entropy, m, batch)


class LogSoftmaxed(LogOfClamped):
    def log_softmax(self, z):
        return z.log_softmax(-1)


class FusedNll(torch.autograd.Function):
    """-log softmax(z / T)[y] with a backward of its own."""

    @staticmethod
    def forward(ctx, logits, y, temperature, in_backward):
        lp = (logits.float() / temperature).log_softmax(-1)
        ctx.save_for_backward(lp, y)
        ctx.temperature = in_backward
        return -lp.gather(-1, y.unsqueeze(-1)).squeeze(-1)

    @staticmethod
    def backward(ctx, upstream):
        lp, y = ctx.saved_tensors
        p_minus_y = lp.exp().scatter_add(-1, y.unsqueeze(-1), torch.full_like(lp[..., :1], -1.0))
        return upstream.unsqueeze(-1) * p_minus_y / ctx.temperature, None, None, None


class FusedForHalf(LossFunction):
    """A fused path, taken for half precision alone, whose backward leaves out the temperature."""

    in_backward = 1.0

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        z, y = kept(model_outputs["logits"][:, :-1], m), batch["input_ids"][:, 1:]
        if z.dtype in (torch.bfloat16, torch.float16):
            return token_mean(FusedNll.apply(z, y, 2.0, self.in_backward), m, batch)
        return token_mean(-(z / 2.0).log_softmax(-1).gather(-1, y.unsqueeze(-1)).squeeze(-1), m, batch)


class FusedRight(FusedForHalf):
    in_backward = 2.0


class ScaledBeforeTheProduct(LossFunction):
    """Embeddings widened, then scaled before a product that autocast narrows again."""

    def similarities(self, x):
        return (128.0 * x) @ (128.0 * x).T / 128.0**2

    def compute_loss(self, batch, model_outputs):
        i, j = batch["positive_pairs"].T
        return F.cross_entropy(self.similarities(model_outputs["embeddings"].float())[i], j)


class ScaledAfterTheProduct(ScaledBeforeTheProduct):
    def similarities(self, x):
        return x @ x.T


class WrittenIntoFloat32(LossFunction):
    """A product written into a buffer of the precision of its factors."""

    def buffer(self, x, product):
        return torch.zeros_like(x[:, :1] @ x[:, :1].T, dtype=x.dtype)

    def compute_loss(self, batch, model_outputs):
        x = model_outputs["embeddings"]
        z = x / (x.square().sum(1, keepdim=True) + 1e-6).sqrt()
        product = z @ z.T
        i, j = batch["positive_pairs"].T
        logits = self.buffer(x, product)
        rows = torch.arange(len(x), device=x.device)
        logits = logits.index_put((rows,), product[rows])
        return F.cross_entropy(logits[i] / 0.5, j)


class WrittenAlike(WrittenIntoFloat32):
    def buffer(self, x, product):
        return torch.zeros_like(product)


class SummedInHalf(LossFunction):
    """Squared errors summed in the precision they come in, and divided afterwards."""

    def summed(self, terms):
        return terms.sum()

    def compute_loss(self, batch, model_outputs):
        m = batch["token_mask"] * row_weights(batch, batch["token_mask"])[:, None]
        error = kept(model_outputs["values"] - batch["returns"].detach(), m)
        return self.summed((2 * error).square()) / (m != 0).sum().clamp(min=1)


class SummedWide(SummedInHalf):
    def summed(self, terms):
        return terms.to(torch.promote_types(terms.dtype, torch.float32)).sum()


class CountedInHalf(LossFunction):
    """The tokens counted in float16."""

    def count(self, m):
        return (m != 0).to(torch.float16).sum().to(m)

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        return -(policy(model_outputs, m) * m).sum() / self.count(m).clamp(min=1)


class Counted(CountedInHalf):
    def count(self, m):
        return (m != 0).sum()


class CountedInBytes(CountedInHalf):
    """The tokens of a row counted in eight bits."""

    def count(self, m):
        return (m != 0).sum(1, dtype=torch.uint8).sum()


class DividedByPowers(LossFunction):
    """Discounted sums of errors to come, as a running sum of gamma^t e_t divided by gamma^t."""

    def to_come(self, e):
        powers = 0.6 ** torch.arange(e.shape[1], dtype=e.dtype, device=e.device)
        return (e * powers).flip(1).cumsum(1).flip(1) / powers

    def compute_loss(self, batch, model_outputs):
        m = batch["token_mask"] * row_weights(batch, batch["token_mask"])[:, None]
        error = kept(model_outputs["values"] - batch["returns"].detach(), m)
        return (kept(self.to_come(error), m).square() * m).sum() / m.sum().clamp(min=1)


class RunBackwards(DividedByPowers):
    def to_come(self, e):
        sums = [e[:, -1]]
        for t in range(e.shape[1] - 2, -1, -1):
            sums.append(e[:, t] + 0.6 * sums[-1])
        return torch.stack(sums[::-1], dim=1)


FAULTS = (
    Fault(
        "B108",
        "a sum of many float16 terms overflows before it is divided",
        "KevinMusgrave/pytorch-metric-learning@b03af31",
        SummedInHalf,
        SummedWide,
        ("stability",),
        VALUE,
        bare=ADVICE,
        profile="standard",
    ),
    Fault(
        "X248",
        "a fused path for half precision with another gradient",
        "",
        FusedForHalf,
        FusedRight,
        ("stability",),
        SFT,
    ),
    Fault("X240", "a static scale inside", "", ScaledInside, ScaledWide, ("stability",), SFT, bare=ADVICE),
    Fault(
        "X241",
        "scaled before the product",
        "",
        ScaledBeforeTheProduct,
        ScaledAfterTheProduct,
        ("stability",),
        CONTRASTIVE,
        bare=ADVICE,
    ),
    Fault(
        "X242",
        "a product of autocast written into float32",
        "",
        WrittenIntoFloat32,
        WrittenAlike,
        ("stability",),
        CONTRASTIVE,
        bare=ADVICE,
    ),
    Fault(
        "X243",
        "tokens counted in float16",
        "",
        CountedInHalf,
        Counted,
        ("stability",),
        Contract(family="supervised", level="token", normalizer="local"),
        profile="standard",
    ),
    Fault(
        "X244",
        "tokens of a row counted in eight bits",
        "",
        CountedInBytes,
        Counted,
        ("stability",),
        Contract(family="supervised", level="token", normalizer="local", length_normalized=True),
        bare=ADVICE,
        profile="standard",
    ),
    Fault(
        "X245",
        "sums to come divided by a power of the position",
        "",
        DividedByPowers,
        RunBackwards,
        ("stability",),
        Contract(family="value", normalizer="local"),
        profile="standard",
    ),
    Fault(
        "X246",
        "filled with -1e9",
        "",
        FilledBelow,
        FilledWithInfinity,
        ("stability",),
        CONTRASTIVE,
        bare=ADVICE,
        advice=True,
    ),
    Fault(
        "X247",
        "log of a probability clamped at 1e-8",
        "",
        LogOfClamped,
        LogSoftmaxed,
        ("stability",),
        SFT,
        bare=ADVICE,
        advice=True,
    ),
)

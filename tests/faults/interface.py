"""What a loss must leave alone, and what it must give back."""

from __future__ import annotations

import random

import torch
import torch.nn.functional as F
from torch import nn

from loss_reference import Contract, LossFunction
from tests.faults.fault import ADVICE, Fault
from tests.faults.masking import LocalNll, Nll
from tests.faults.parts import (
    constant,
    gathered,
    kept,
    pair_mean,
    pair_weights,
    pairs,
    policy,
    sequence_ratio,
    token_mean,
    token_weights,
)

SFT = Contract(family="supervised", level="token", normalizer="global", lower_bound=0.0)
PG = Contract(family="policy_gradient", normalizer="global")


class Tempered(LossFunction):
    """NLL at temperature 2."""

    def divide(self, z):
        return z / 2.0

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        return token_mean(-gathered(batch, {"logits": self.divide(model_outputs["logits"])}, m), m, batch)


class DividedInPlace(Tempered):
    def divide(self, z):
        return z.div_(2.0)


class Relabelled(LossFunction):
    """NLL over labels made from the token ids."""

    def labels(self, batch, m):
        return batch["input_ids"][:, 1:].masked_fill(m == 0, 0)

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        y = self.labels(batch, m)
        z = kept(model_outputs["logits"][:, :-1], m)
        return token_mean(-z.log_softmax(-1).gather(-1, y.unsqueeze(-1)).squeeze(-1), m, batch)


class LabelsThroughView(Relabelled):
    def labels(self, batch, m):
        return batch["input_ids"][:, 1:].masked_fill_(m == 0, 0)


class MaskWritten(LossFunction):
    """Keeps advantages in place instead of a copy."""

    def advantages(self, batch, m):
        return batch["advantages"][:, 1:].mul_(m)

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        return token_mean(-policy(model_outputs, m) * self.advantages(batch, m), m, batch)


class AdvantagesCopied(MaskWritten):
    def advantages(self, batch, m):
        return constant(batch, "advantages", m)


class Remembering(LossFunction):
    """Pulls the mean log-probability towards its moving average."""

    def __init__(self, config=None):
        super().__init__(config)
        self.register_buffer("mean", torch.zeros(()))

    def remember(self, mean):
        self.mean.lerp_(mean, 0.1)

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        mean = token_mean(-policy(model_outputs, m), m, batch)
        loss = mean + 0.1 * (mean - self.mean).square()
        self.remember(mean.detach())
        return loss


class RememberedElsewhere(Remembering):
    def remember(self, mean):
        pass


class Dropout(LossFunction):
    def drop(self, lp):
        return F.dropout(lp, 0.1)

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        return token_mean(-self.drop(policy(model_outputs, m)), m, batch)


class ReseedsEverything(Nll):
    def compute_loss(self, batch, model_outputs):
        torch.manual_seed(0)
        random.seed(0)
        return super().compute_loss(batch, model_outputs)


class DefaultDtypeLeft(Nll):
    """Works in float64 and leaves that to everybody after it."""

    def compute_loss(self, batch, model_outputs):
        torch.set_default_dtype(torch.float64)
        return super().compute_loss(batch, model_outputs)


class Projected(LossFunction):
    """Cosine distance after a random projection that is kept."""

    def __init__(self, config=None):
        super().__init__(config)
        generator = torch.Generator().manual_seed(3)
        self.weight = nn.Parameter(torch.rand(1, generator=generator) + 0.5)

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        return token_mean((self.weight.squeeze(0) * policy(model_outputs, m)).square(), m, batch)


class CopiedAfresh(Projected):
    """A copy is built anew and loses what was learnt."""

    def __init__(self, config=None):
        super().__init__(config)
        self.weight = nn.Parameter(torch.rand(1) + 0.5)

    def __reduce__(self):
        return type(self), ()


class ReturnsPython(Nll):
    def compute_loss(self, batch, model_outputs):
        return super().compute_loss(batch, model_outputs).item()


class ReturnsRows(LossFunction):
    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        return -(policy(model_outputs, m) * m).sum(1) / m.sum().clamp(min=1)


class Rebuilt(Nll):
    def compute_loss(self, batch, model_outputs):
        return torch.tensor(float(super().compute_loss(batch, model_outputs)), requires_grad=True)


class LambdaKept(LossFunction):
    """An activation kept as a lambda cannot be pickled."""

    def __init__(self, config=None):
        super().__init__(config)
        self.link = lambda x: F.softplus(-x)

    def compute_loss(self, batch, model_outputs):
        h = sequence_ratio(batch, model_outputs)
        chosen, rejected = pairs(h)
        return pair_mean(self.link(chosen - rejected), pair_weights(batch, h), batch)


class MethodKept(LambdaKept):
    def __init__(self, config=None):
        super().__init__(config)
        self.link = F.logsigmoid

    def compute_loss(self, batch, model_outputs):
        h = sequence_ratio(batch, model_outputs)
        chosen, rejected = pairs(h)
        return pair_mean(-self.link(chosen - rejected), pair_weights(batch, h), batch)


class Prints(Nll):
    def compute_loss(self, batch, model_outputs):
        loss = super().compute_loss(batch, model_outputs)
        print("loss", float(loss))
        return loss


class NewOnCpu(LossFunction):
    """A smoothing target made without device=."""

    def zeros(self, like):
        return torch.zeros(like.shape, dtype=like.dtype)

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        lp = policy(model_outputs, m)
        return token_mean(-torch.minimum(lp, self.zeros(lp)), m, batch)


class NewOnDevice(NewOnCpu):
    def zeros(self, like):
        return torch.zeros_like(like)


class RangeOnCpu(LossFunction):
    """Weights that fall along the sequence."""

    def positions(self, m):
        return torch.arange(m.shape[1], dtype=m.dtype)

    def compute_loss(self, batch, model_outputs):
        m = token_weights(batch)
        return token_mean(-policy(model_outputs, m) * 0.9 ** self.positions(m), m, batch)


class RangeOnDevice(RangeOnCpu):
    def positions(self, m):
        return torch.arange(m.shape[1], dtype=m.dtype, device=m.device)


FAULTS = (
    Fault(
        "B178",
        "division of the logits in place",
        "THUDM/slime@68f040a86",
        DividedInPlace,
        Tempered,
        ("interface",),
        SFT,
    ),
    Fault(
        "B180",
        "the mask written into the caller's labels through a view",
        "NVIDIA-NeMo/Automodel#3917",
        LabelsThroughView,
        Relabelled,
        ("interface",),
        SFT,
    ),
    Fault(
        "B181",
        "state updated on evaluation calls",
        "lightly-ai/lightly@78d66c01",
        Remembering,
        RememberedElsewhere,
        ("interface",),
        SFT,
    ),
    Fault("X40", "hidden dropout", "", Dropout, Nll, ("interface",), SFT),
    Fault("X41", "seeds the global generator", "", ReseedsEverything, Nll, ("interface",), SFT),
    Fault("X42", "leaves another default dtype", "", DefaultDtypeLeft, Nll, ("interface",), SFT),
    Fault(
        "X43",
        "a copy loses what was learnt",
        "",
        CopiedAfresh,
        Projected,
        ("interface",),
        Contract(normalizer="global"),
    ),
    Fault("X44", "returns a Python number", "", ReturnsPython, Nll, ("interface",), SFT),
    Fault("X45", "returns one value per row", "", ReturnsRows, LocalNll, ("interface",), Contract(family="supervised")),
    Fault("X46", "rebuilt from a number: a graph of its own", "", Rebuilt, Nll, ("interface", "gradient_flow"), SFT),
    Fault("X47", "advantages masked in place", "", MaskWritten, AdvantagesCopied, ("interface",), PG),
    Fault(
        "X48",
        "a lambda that cannot be pickled",
        "",
        LambdaKept,
        MethodKept,
        ("interface",),
        Contract(family="preference", level="pair"),
        bare=ADVICE,
        advice=True,
    ),
    Fault("X51", "prints", "", Prints, Nll, ("interface",), SFT, bare=ADVICE, advice=True),
    Fault("X49", "zeros without device=", "", NewOnCpu, NewOnDevice, ("device_parity",), SFT),
    Fault("X50", "arange without device=", "", RangeOnCpu, RangeOnDevice, ("device_parity",), SFT),
)

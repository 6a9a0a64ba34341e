"""The precision a loss computes in is measured, whatever it is fed: tolerances follow it."""

import pytest
import torch
import torch.nn.functional as F

from loss_conformance.bench import Bench
from loss_conformance.subject.load import load_subject
from loss_reference import Contract, DPOLoss, LossFunction, registry
from tests.conformance.facts.small_losses import InBatchNegatives, WithReference, weights

FLOAT32, FLOAT64 = torch.finfo(torch.float32).eps, torch.finfo(torch.float64).eps


class Cast(LossFunction):
    """A token mean that rounds the inputs named in ``rounded``."""

    rounded: tuple[str, ...] = ()

    def read(self, mapping, name):
        return mapping[name].float() if name in self.rounded else mapping[name]

    def compute_loss(self, batch, model_outputs):
        mask = weights(batch)
        logprobs = self.read(model_outputs, "next_token_logprobs")
        ratio = torch.exp(logprobs - self.read(batch, "prev_logprobs")[:, 1:])
        gain = torch.where(mask != 0, ratio * self.read(batch, "advantages")[:, 1:], 0.0)
        return -(gain.sum() / mask.sum().clamp(min=1)).double()


class OnlyTheResult(LossFunction):
    def compute_loss(self, batch, model_outputs):
        return Cast().compute_loss(batch, model_outputs).float()


class HiddenInTheMiddle(LossFunction):
    def compute_loss(self, batch, model_outputs):
        mask = weights(batch)
        nll = F.softplus(-model_outputs["next_token_logprobs"]).float().double()
        return torch.where(mask != 0, nll, 0.0).sum() / mask.sum().clamp(min=1)


class ScaleInvariant(LossFunction):
    """The cosine of embeddings: blind to their length."""

    def compute_loss(self, batch, model_outputs):
        unit = F.normalize(model_outputs["embeddings"], dim=-1)
        pairs = batch["positive_pairs"]
        return 1 - (unit[pairs[:, 0]] * unit[pairs[:, 1]]).sum(-1).mean()


class ShiftInvariant(LossFunction):
    """A softmax: blind to what is added to all logits."""

    def compute_loss(self, batch, model_outputs):
        nll = -model_outputs["logits"].log_softmax(-1)[:, :-1].gather(-1, batch["input_ids"][:, 1:, None]).squeeze(-1)
        mask = weights(batch)
        return torch.where(mask != 0, nll, 0.0).sum() / mask.sum().clamp(min=1)


class WhitenedAdvantages(LossFunction):
    """Blind to both scale and shift of the advantages."""

    def compute_loss(self, batch, model_outputs):
        advantages = batch["advantages"][:, 1:]
        white = (advantages - advantages.mean()) / advantages.std()
        return -(white * model_outputs["next_token_logprobs"] * weights(batch)).mean()


class Plateau(LossFunction):
    """A hinge no ordinary batch gets past: nothing moves it."""

    def compute_loss(self, batch, model_outputs):
        return (torch.relu(-model_outputs["next_token_logprobs"] - 1e3) * weights(batch)).mean()


class StraightThrough(LossFunction):
    """The gradient is not that of the value, on purpose."""

    contract = Contract(surrogate_gradient=True)

    def compute_loss(self, batch, model_outputs):
        logprobs = model_outputs["next_token_logprobs"]
        ratio = torch.exp(logprobs - batch["prev_logprobs"][:, 1:]).detach()
        return -(ratio * logprobs * weights(batch)).mean()


def eps_of(loss: object) -> float:
    return Bench(load_subject(loss)).eps


def rounding(*names: str) -> type[LossFunction]:
    return type("Rounding", (Cast,), {"rounded": names})


@pytest.mark.parametrize(
    "rounded",
    [
        ("next_token_logprobs", "prev_logprobs", "advantages"),
        ("next_token_logprobs",),
        ("prev_logprobs",),
        ("advantages",),
    ],
    ids=", ".join,
)
def test_a_detour_through_float32_is_seen(rounded: tuple[str, ...]) -> None:
    assert eps_of(rounding(*rounded)) == FLOAT32


@pytest.mark.parametrize("loss", [OnlyTheResult, HiddenInTheMiddle])
def test_rounding_on_the_way_out_is_seen(loss: type[LossFunction]) -> None:
    assert eps_of(loss) == FLOAT32


@pytest.mark.parametrize(
    "loss",
    [
        Cast,
        WithReference,
        InBatchNegatives,
        ScaleInvariant,
        ShiftInvariant,
        WhitenedAdvantages,
        Plateau,
        StraightThrough,
        DPOLoss,
    ],
)
def test_a_float64_loss_is_judged_as_one(loss: type[LossFunction]) -> None:
    assert eps_of(loss) == FLOAT64


@pytest.mark.parametrize("name", ["nll", "ppo_clip", "grpo", "value_mse", "bradley_terry", "mixed_kl", "infonce"])
def test_reference_losses_compute_in_what_they_are_fed(name: str) -> None:
    assert eps_of(registry.get(name)) == FLOAT64


def test_a_loss_that_takes_nothing_wider_than_float32_is_fed_that() -> None:
    class Narrow(LossFunction):
        def compute_loss(self, batch, model_outputs):
            return -(model_outputs["next_token_logprobs"] @ torch.ones(4)).mean()

    bench = Bench(load_subject(Narrow))
    assert bench.dtype is torch.float32
    assert bench.eps == FLOAT32

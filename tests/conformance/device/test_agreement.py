"""The device law on whole losses: parameters and buffers move along, stray CPU tensors are named."""

import pytest
import torch
from torch import nn

from loss_conformance.verdict import Status
from loss_reference import LossFunction, registry
from tests.conformance.engine.misbehaving import TokenMean, quick_engine
from tests.conformance.facts.small_losses import weights


class Positional(TokenMean):
    """A learned weight for each position, read at indices made on the device of the weight."""

    def __init__(self, config=None):
        super().__init__(config)
        self.weight = nn.Parameter(torch.linspace(0.5, 1.5, 8))
        self.register_buffer("scale", torch.full((8,), 0.5))

    def factors(self, count: int) -> torch.Tensor:
        positions = torch.arange(count, device=self.weight.device)
        return self.weight[positions] * self.scale[positions]

    def spoiled(self, value, mask):
        return value * self.factors(mask.shape[1]).mean()


class Multiplied(Positional):
    """The same weights as operands instead of by index."""

    def spoiled(self, value, mask):
        return value * (self.factors(mask.shape[1]) * mask).sum() / mask.sum().clamp(min=1)


class Nested(TokenMean):
    """Parameters of a module inside, one of them under two names."""

    def __init__(self, config=None):
        super().__init__(config)
        self.head = nn.Sequential(nn.Linear(1, 2), nn.Linear(2, 1))
        self.head[1].bias = self.head[0].weight.__class__(torch.ones(1))
        self.tied = self.head[1].bias

    def spoiled(self, value, mask):
        return value * self.head(mask[:1, :1]).sigmoid().sum() * self.tied.sum()


class Temperature(TokenMean):
    """A learned number."""

    def __init__(self, config=None):
        super().__init__(config)
        self.log_scale = nn.Parameter(torch.tensor(-2.0))

    def spoiled(self, value, mask):
        return value * self.log_scale.exp()


class IndexedOnTheCPU(TokenMean):
    """Legal: real devices take indices on the CPU."""

    def spoiled(self, value, mask):
        return value + 0 * mask[torch.arange(mask.shape[0])].sum()


class StrayFactory(TokenMean):
    def spoiled(self, value, mask):
        return value + 0 * (mask * torch.arange(mask.shape[1])).sum()


class StrayAttribute(TokenMean):
    """A tensor that is neither parameter nor buffer stays where it was made."""

    def __init__(self, config=None):
        super().__init__(config)
        self.offset = torch.zeros(1)

    def spoiled(self, value, mask):
        return value + self.offset.sum() + (mask * self.offset).sum()


class MovedToTheCPU(LossFunction):
    def compute_loss(self, batch, model_outputs):
        mask = weights(batch).cpu()
        return -(model_outputs["next_token_logprobs"] * mask).mean()


@pytest.mark.parametrize("loss", [TokenMean, Positional, Multiplied, Nested, Temperature, IndexedOnTheCPU])
def test_agrees(loss: type[LossFunction]) -> None:
    verdict = quick_engine(loss).run("device_agreement")
    assert (verdict.status, verdict.failure) == (Status.PASSED, None)


@pytest.mark.parametrize(
    ("loss", "operation"), [(StrayFactory, "mul"), (StrayAttribute, "mul"), (MovedToTheCPU, "mul")]
)
def test_a_stray_cpu_tensor_is_named(loss: type[LossFunction], operation: str) -> None:
    verdict = quick_engine(loss).run("device_agreement")
    assert verdict.status is Status.FAILED
    assert verdict.failure is not None
    assert verdict.failure.got.startswith(f"{operation} was given a CPU tensor of shape (")
    assert verdict.failure.got.endswith(") beside device tensors")
    assert verdict.failure.changed == "every input moved to a simulated device"
    assert "test_agreement.py" in verdict.failure.traceback


@pytest.mark.parametrize("name", ["dpo", "ppo_clip", "grpo", "forward_kl", "contrastive", "infonce", "value_mse"])
def test_reference_losses_agree(name: str) -> None:
    assert quick_engine(registry.get(name)).run("device_agreement").status is Status.PASSED


def test_the_loss_itself_stays_on_the_cpu() -> None:
    loss = Positional()
    assert quick_engine(loss).run("device_agreement").status is Status.PASSED
    assert type(loss.weight) is nn.Parameter
    assert loss.weight.device.type == "cpu"
    assert loss.scale.device.type == "cpu"

"""Clips that are not the symmetric one of PPO are not measured by its rule."""

from typing import ClassVar

import pytest
import torch

from loss_conformance import check_loss
from loss_conformance.verdict import Status
from loss_reference import Contract, LossFunction

NEVER = (Status.FAILED, Status.ADVICE)


class Surrogate(LossFunction):
    """A surrogate of the ratio, clipped in a way of its own."""

    contract = Contract(family="policy_gradient", level="token", normalizer="global")
    defaults: ClassVar[dict[str, float]] = {"clip_eps": 0.2}

    def __init__(self, config=None):
        super().__init__(config)
        for name, value in self.defaults.items():
            setattr(self, name, self.config.get(name, value))

    def terms(self, rho, a, lp):
        return torch.maximum(-a * rho, -a * rho.clamp(*self.bounds()))

    def bounds(self):
        return 1 - self.clip_eps, 1 + self.clip_eps

    def compute_loss(self, batch, model_outputs):
        m = batch["token_mask"][:, 1:] * batch["sample_mask"].unsqueeze(1)
        lp = torch.where(m != 0, model_outputs["next_token_logprobs"], 0.0)
        old, a = (torch.where(m != 0, batch[name].detach()[:, 1:], 0.0) for name in ("prev_logprobs", "advantages"))
        terms = self.terms((lp - old).clamp(max=20).exp(), a, lp)
        return (terms * m).sum() / batch["global_valid_toks"].clamp(min=1)


class OfTheLogarithm(Surrogate):
    def bounds(self):
        return torch.tensor(-self.clip_eps).exp().item(), torch.tensor(self.clip_eps).exp().item()


class Reciprocal(Surrogate):
    def bounds(self):
        return 1 / (1 + self.clip_eps), 1 + self.clip_eps


class AboveOnly(Surrogate):
    def bounds(self):
        return 0.0, 1 + self.clip_eps


class Truncated(Surrogate):
    def terms(self, rho, a, lp):
        return -a * rho.clamp(max=1 + self.clip_eps)


class Detached(Surrogate):
    def terms(self, rho, a, lp):
        return -a * rho.clamp(*self.bounds()).detach() * lp


class TwiceClipped(Surrogate):
    defaults: ClassVar[dict[str, float]] = {"clip_eps": 0.2, "dual_clip": 3.0}

    def terms(self, rho, a, lp):
        clipped = super().terms(rho, a, lp)
        return torch.where(a < 0, torch.minimum(clipped, -a * self.dual_clip), clipped)


class CommonAndHigh(Surrogate):
    defaults: ClassVar[dict[str, float]] = {"epsilon": 0.2, "epsilon_high": 0.28}

    def bounds(self):
        return 1 - self.epsilon, 1 + self.epsilon_high


class Bounds(Surrogate):
    defaults: ClassVar[dict[str, float]] = {"clip_low": 0.8, "clip_high": 0.25}

    def bounds(self):
        return self.clip_low, 1 + self.clip_high


class WithPenalty(Surrogate):
    """A term without a clip stands beside the surrogate."""

    def terms(self, rho, a, lp):
        return super().terms(rho, a, lp) + 0.1 * lp.square()


class AnotherSetting(Surrogate):
    defaults: ClassVar[dict[str, float]] = {"clip_eps": 0.2, "negative_floor": 0.5}

    def bounds(self):
        return self.negative_floor, 1 + self.clip_eps


@pytest.mark.parametrize(
    "loss",
    [
        Surrogate,
        OfTheLogarithm,
        Reciprocal,
        AboveOnly,
        Truncated,
        Detached,
        TwiceClipped,
        CommonAndHigh,
        Bounds,
        WithPenalty,
        AnotherSetting,
    ],
    ids=lambda loss: loss.__name__,
)
def test_other_clips_are_not_accused(loss: type) -> None:
    (verdict,) = (
        v for v in check_loss(loss, checks=("clip_range",), profile="quick", seed=0).verdicts if v.check == "clip_range"
    )
    assert verdict.status not in NEVER, verdict.failure


class CommonForHigh(CommonAndHigh):
    def bounds(self):
        return 1 - self.epsilon_high, 1 + self.epsilon


def test_a_common_setting_is_that_of_the_side_without_its_own() -> None:
    report = check_loss(CommonForHigh, checks=("clip_range",), profile="quick", seed=0)
    assert [v.check for v in report.having(Status.FAILED)] == ["clip_range"]


@pytest.mark.parametrize("loss", [Surrogate, CommonAndHigh, TwiceClipped, WithPenalty], ids=lambda loss: loss.__name__)
def test_ordinary_clips_are_measured(loss: type) -> None:
    report = check_loss(loss, checks=("clip_range",), profile="quick", seed=0)
    assert "clip_range" in [v.check for v in report.having(Status.PASSED)]

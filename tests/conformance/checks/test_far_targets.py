"""Losses that let go of what is far away on purpose are not accused of it."""

import pytest
import torch
import torch.nn.functional as F

from loss_conformance import check_loss
from loss_conformance.verdict import Status
from loss_reference import Contract, Field

FIELDS = {"input": Field("values", "B D", trainable=True), "target": Field("values", "B D", trainable=False)}


def told(loss, **facts):
    loss.contract = Contract(family="supervised", fields=FIELDS, **facts)
    report = check_loss(loss, checks=("large_errors_count",), profile="quick", seed=0)
    return {v.check: v.status for v in report.verdicts}["large_errors_count"]


def huber(input, target):
    return F.huber_loss(input, target)


def pinball(input, target):
    error = target - input
    return torch.maximum(0.9 * error, -0.1 * error).mean()


def one_sided(input, target):
    return F.relu(target - input).square().mean()


def biweight(input, target):
    share = (1 - ((input - target) / 4.685).square()).clamp(min=0)
    return (1 - share**3).mean()


def welsch(input, target):
    return (1 - torch.exp(-0.5 * (input - target).square())).mean()


def of_pixels(input, target):
    return F.mse_loss(input.clamp(-1, 1), target.clamp(-1, 1))


def truncated(input, target, cap=2.0):
    return (input - target).abs().clamp(max=cap).square().mean()


def cut_off(input, target):
    return (input - target).clamp(-1, 1).square().mean()


@pytest.mark.parametrize("loss", [huber, pinball, one_sided, biweight, welsch, of_pixels, truncated])
def test_pulls_that_fade_or_are_bounded_are_not_accused(loss) -> None:
    assert told(loss) in (Status.PASSED, Status.NOT_APPLICABLE)


def test_an_error_that_is_cut_off_is_told() -> None:
    assert told(cut_off) in (Status.FAILED, Status.ADVICE)


def test_unless_a_bound_is_promised() -> None:
    assert told(cut_off, lower_bound=0.0, upper_bound=1.0) is Status.NOT_APPLICABLE

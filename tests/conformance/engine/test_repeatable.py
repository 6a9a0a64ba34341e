"""The same seed gives the same verdicts, whatever happened before; a failure is shrunk to a small case."""

import random
import re
from dataclasses import replace

import numpy
import pytest
import torch

from loss_conformance.verdict import Report, Status
from loss_reference import Contract, DPOLoss, LossFunction, PPOClipLoss
from tests.conformance.engine.misbehaving import TokenMean, quick_engine
from tests.conformance.engine.test_statuses import Leaks
from tests.conformance.facts.small_losses import weights


class DropsOut(TokenMean):
    """Random numbers nobody knows of."""

    def spoiled(self, value, mask):
        return value * (1.0 + 0.5 * torch.rand(()) + 0.5 * random.random() + 0.5 * numpy.random.random())


class Weighted(LossFunction):
    """Random numbers it declares."""

    contract = Contract(stochastic=True)

    def compute_loss(self, batch, model_outputs):
        mask = weights(batch)
        logprobs = torch.where(mask != 0, model_outputs["next_token_logprobs"], 0.0)
        return -(logprobs * mask * torch.rand_like(mask)).sum() / mask.sum().clamp(min=1)


def without_seconds(report: Report) -> Report:
    return replace(report, verdicts=tuple(verdict.with_seconds(0.0) for verdict in report.verdicts))


@pytest.mark.parametrize("loss", [Leaks, DPOLoss, PPOClipLoss, DropsOut, Weighted])
def test_two_engines_with_one_seed_agree(loss: type) -> None:
    one = without_seconds(quick_engine(loss, seed=3).report())
    torch.manual_seed(1234)
    numpy.random.seed(1234)
    torch.rand(5)
    other = without_seconds(quick_engine(loss, seed=3).report())
    assert one == other
    assert one.seed == 3


@pytest.mark.parametrize("loss", [Leaks, DropsOut, Weighted])
def test_the_order_checks_run_in_does_not_matter(loss: type) -> None:
    forwards, backwards = quick_engine(loss), quick_engine(loss)
    names = [check.name for check in forwards.checks()]
    one = {name: forwards.run(name).with_seconds(0) for name in names}
    other = {name: backwards.run(name).with_seconds(0) for name in reversed(names)}
    assert one == other


def test_a_loss_that_declares_its_random_numbers_is_not_blamed_for_them() -> None:
    report = quick_engine(Weighted).report()
    assert report.conformant
    assert report.having(Status.ADVICE) == ()


def test_another_seed_tries_other_cases() -> None:
    assert quick_engine(Leaks, seed=1).pool != quick_engine(Leaks, seed=2).pool


@pytest.mark.parametrize("seed", range(4))
def test_what_fails_is_shrunk_to_two_rows(seed: int) -> None:
    """No situation with padding has fewer than two rows of three tokens, or four where there must be a hole."""
    verdict = quick_engine(Leaks, seed=seed).run("mask_value")
    assert verdict.failure is not None
    assert re.match(r"B=2 S=[34], token_mask=", verdict.failure.case)
    assert re.search(rf"\(situation (typical|holes), seed {seed}, shrunk in \d+ steps\)$", verdict.failure.case)


def test_the_pool_is_shared_by_every_profile() -> None:
    assert quick_engine(Leaks).pool == quick_engine(Leaks).pool
    assert {len(plans) for plans in quick_engine(Leaks).pool.values()} == {6}

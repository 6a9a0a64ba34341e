"""Losses that do what no loss should, each around a correct token mean."""

import os
import random
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy
import torch
from torch import Tensor

from loss_conformance.engine import Engine
from loss_conformance.profile import PROFILES
from loss_conformance.subject.load import load_subject
from loss_conformance.verdict import Status, Verdict
from loss_reference import Contract, LossFunction
from tests.conformance.facts.small_losses import weights


class TokenMean(LossFunction):
    contract = Contract(family="supervised", level="token", normalizer="global", lower_bound=0.0)

    def compute_loss(self, batch, model_outputs):
        mask = weights(batch)
        total = -(torch.where(mask != 0, model_outputs["next_token_logprobs"], 0.0) * mask).sum()
        count = batch.get("global_valid_toks", mask.sum()).clamp(min=1)
        return self.spoiled(total / count, mask)

    def spoiled(self, value: Tensor, mask: Tensor) -> Any:
        return value


class ReturnsTwo(TokenMean):
    def spoiled(self, value, mask):
        return value.expand(2)


class ReturnsInteger(TokenMean):
    def spoiled(self, value, mask):
        return 3


class ReturnsNone(TokenMean):
    def spoiled(self, value, mask):
        return None


class ReturnsIntegerTensor(TokenMean):
    def spoiled(self, value, mask):
        return torch.tensor(3)


class Detached(TokenMean):
    def spoiled(self, value, mask):
        return value.detach()


class Hangs(TokenMean):
    def spoiled(self, value, mask):
        while True:
            pass


class HangsWhenEmpty(TokenMean):
    def spoiled(self, value, mask):
        while not mask.any():
            try:
                mask.sum()
            except Exception:
                continue
        return value


class Exits(TokenMean):
    def spoiled(self, value, mask):
        sys.exit(3)


class ExitsWhenEmpty(TokenMean):
    def spoiled(self, value, mask):
        return value if mask.any() else sys.exit("no tokens")


class FillsMemory(TokenMean):
    def spoiled(self, value, mask):
        return value + torch.zeros(10**11).sum()


class FillsMemoryWhenEmpty(TokenMean):
    def spoiled(self, value, mask):
        return value if mask.any() else value + torch.zeros(10**11).sum()


class Raises(TokenMean):
    def spoiled(self, value, mask):
        raise ArithmeticError("not today")


class RaisesWhenEmpty(TokenMean):
    def spoiled(self, value, mask):
        if not mask.any():
            raise ArithmeticError("no tokens")
        return value


class ChangesDirectory(TokenMean):
    def spoiled(self, value, mask):
        os.chdir("/")
        return value


class Seeds(TokenMean):
    def spoiled(self, value, mask):
        torch.manual_seed(0)
        return value


class Draws(TokenMean):
    def spoiled(self, value, mask):
        random.random()
        numpy.random.random()
        return value


class ChangesDtype(TokenMean):
    def spoiled(self, value, mask):
        torch.set_default_dtype(torch.float64)
        return value


class DisablesGradients(TokenMean):
    def spoiled(self, value, mask):
        torch.set_grad_enabled(False)
        return value


class ChangesThreads(TokenMean):
    def spoiled(self, value, mask):
        torch.set_num_threads(2)
        return value


class Prints(TokenMean):
    def spoiled(self, value, mask):
        print("value:", float(value) >= 0)
        print("to standard error", file=sys.stderr)
        return value


class Warns(TokenMean):
    def spoiled(self, value, mask):
        warnings.warn("careful with this one", UserWarning, stacklevel=1)
        return value


class WritesFile(TokenMean):
    def spoiled(self, value, mask):
        with open("loss.log", "a") as log:
            log.write("a line\n")
        return value


def quick_engine(loss: Any, seconds: float | None = None, **how: Any) -> Engine:
    """An engine of the quick profile on the CPU, with another time limit if one is given."""
    limited = replace(PROFILES["quick"], seconds=seconds or PROFILES["quick"].seconds)
    with patch.dict(PROFILES, {"quick": limited}):
        return Engine(load_subject(loss, contract=how.pop("contract", None)), profile="quick", device="cpu", **how)


def verdicts(loss: Any, *names: str, **how: Any) -> tuple[Verdict, ...]:
    engine = quick_engine(loss, **how)
    return tuple(engine.run(name) for name in names)


def got(loss: Callable[..., Any], check: str, **how: Any) -> tuple[Status, str, str]:
    """Status of one check, and what its failure says it got and wanted."""
    (verdict,) = verdicts(loss, check, **how)
    assert verdict.failure is not None
    return verdict.status, verdict.failure.got, verdict.failure.wanted

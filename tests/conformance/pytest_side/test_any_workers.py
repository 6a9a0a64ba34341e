"""The same seed gives the same cases and verdicts however many processes share the work."""

import json
from typing import Any

import pytest

MODULE = """
import torch
from loss_reference import Contract, LossFunction


class Unmasked(LossFunction):
    def compute_loss(self, batch, model_outputs):
        return -model_outputs["next_token_logprobs"].mean() + 0 * batch["token_mask"].sum()


class Noisy(LossFunction):
    contract = Contract(stochastic=True)

    def compute_loss(self, batch, model_outputs):
        mask = batch["token_mask"][:, 1:] * batch["sample_mask"][:, None]
        logprobs = torch.where(mask != 0, model_outputs["next_token_logprobs"], 0.0)
        return -(logprobs * mask * torch.rand_like(mask)).sum() / mask.sum().clamp(min=1)


class Learned(LossFunction):
    def __init__(self, config=None):
        super().__init__(config)
        self.weight = torch.nn.Parameter(torch.randn(()))

    def compute_loss(self, batch, model_outputs):
        mask = batch["token_mask"][:, 1:] * batch["sample_mask"][:, None]
        logprobs = torch.where(mask != 0, model_outputs["next_token_logprobs"], 0.0)
        return -(logprobs * mask).sum() * self.weight.exp() / mask.sum().clamp(min=1)


def focal(logits, labels, gamma=2.0):
    p = logits.log_softmax(-1).gather(1, labels[:, None])[:, 0]
    return -((1 - p.exp()) ** gamma * p).mean()
"""

TARGETS = ("theirs.Unmasked", "theirs.Noisy", "theirs.Learned", "theirs.focal")


@pytest.fixture
def folder(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makepyfile(theirs=MODULE)
    return pytester


def report(folder: pytest.Pytester, name: str, *arguments: str) -> list[dict[str, Any]]:
    named = [part for target in TARGETS for part in ("--loss-conformance", target)]
    result = folder.runpytest_subprocess(
        *named, "--loss-profile=quick", "--loss-device=cpu", f"--loss-report={name}", *arguments
    )
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    return list(json.loads((folder.path / name / "report.json").read_text())["targets"])


def told(targets: list[dict[str, Any]]) -> dict[tuple[str, str], Any]:
    """Everything said of every check, but how long it took and where its files are."""
    varying = ("seconds", "block")
    return {
        (target["target"], check["check"]): {name: value for name, value in check.items() if name not in varying}
        for target in targets
        for check in target["checks"]
    }


def test_verdicts_depend_neither_on_the_number_of_workers_nor_on_what_ran_before(folder: pytest.Pytester) -> None:
    alone = report(folder, "alone", "-p", "no:xdist")
    assert {check["status"] for check in told(alone).values()} >= {"passed", "failed", "not applicable"}
    shared = report(folder, "shared", "-n", "2")
    assert told(shared) == told(alone)
    for one, other in zip(shared, alone, strict=True):
        assert (one["facts"], sorted(one["warnings"])) == (other["facts"], sorted(other["warnings"]))
    of_group = told(report(folder, "masking", "-p", "no:xdist", "-k", "masking"))
    assert of_group
    for check, said in of_group.items():
        assert said == told(alone)[check], check

"""Arguments that hold tensors are filled: the outputs of a model, a dict of the batch, lists with one tensor per row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from loss_conformance import check_loss
from loss_conformance.subject.protocol import CannotFeed
from loss_conformance.subject.subject import TargetError
from loss_conformance.verdict import Status
from tests.conformance.subject.fed import assert_not_accused, route, shapes

FED = ("scalar_output", "finite_value", "mask_value", "lower_bound", "row_independence", "wanted_direction")


def masked_mean(x, mask):
    return torch.where(mask != 0, x, 0.0).sum() / mask.sum().clamp(min=1)


def next_token_loss(logits, labels, count):
    labels = F.pad(labels, (0, 1), value=-100)[:, 1:]
    terms = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum", ignore_index=-100)
    return terms / ((labels != -100).sum().clamp(min=1) if count is None else count)


def of_an_object(outputs, labels, num_items_in_batch=None):
    return next_token_loss(outputs.logits, labels, num_items_in_batch)


def of_a_dict(outputs, labels, num_items_in_batch=None):
    return next_token_loss(outputs["logits"], labels, num_items_in_batch)


def of_either(outputs, labels):
    return next_token_loss(outputs["logits"] if isinstance(outputs, dict) else outputs[0], labels, None)


def surrogate(log_probs, old_log_probs, advantages, mask, clip=0.2):
    ratio = torch.where(mask != 0, log_probs - old_log_probs, 0.0).exp()
    return masked_mean(-torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages), mask)


def beside_a_batch(log_probs, batch):
    return surrogate(log_probs, batch["log_probs"], batch["advantages"], batch["response_mask"])


def of_mappings_alone(outputs: Mapping[str, Tensor], data: dict[str, Any]):
    return surrogate(outputs["log_probs"], data["old_log_probs"], data["advantages"], data["mask"])


def where_a_mask_may_be(log_probs: Tensor, minibatch: dict[str, Tensor]):
    mask = minibatch.get("response_mask")
    mask = torch.ones_like(log_probs) if mask is None else mask
    return surrogate(log_probs, minibatch["old_log_probs"], minibatch["advantages"], mask)


def of_rows(
    log_probs: list[Tensor], old_log_probs: list[Tensor], advantages: list[Tensor], loss_mask: list[Tensor]
) -> Tensor:
    rows = zip(log_probs, old_log_probs, advantages, loss_mask, strict=True)
    return torch.stack([surrogate(*row) for row in rows]).mean()


def of_scales(logits: list[Tensor], target: Tensor):
    return sum(F.cross_entropy(scale, target) for scale in logits) / len(logits)


@dataclass
class Clip:
    clip: float = 0.2


def with_a_config(config: Clip, log_probs, old_log_probs, advantages, mask):
    return surrogate(log_probs, old_log_probs, advantages, mask, config.clip)


def with_any_config(args, log_probs, old_log_probs, advantages, mask):
    return surrogate(log_probs, old_log_probs, advantages, mask, args.eps_clip)


LOSSES = [
    of_an_object,
    of_a_dict,
    of_either,
    beside_a_batch,
    of_mappings_alone,
    where_a_mask_may_be,
    of_rows,
    of_scales,
]
LOSSES += [with_a_config, with_any_config]


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)
def test_it_is_fed_and_nothing_is_wrong(loss):
    assert_not_accused(loss, FED)


def test_tensors_are_called_as_their_author_writes_them():
    _, schema = route(beside_a_batch)
    assert shapes(schema) == {
        "log_probs": "model_outputs.next_token_logprobs B S-1*>1",
        'batch["log_probs"]': "batch.prev_logprobs B S-1>1",
        'batch["advantages"]': "batch.advantages B S-1>1",
        'batch["response_mask"]': "batch.token_mask B S-1>1",
    }


def test_what_a_batch_may_hold_is_put_there():
    _, schema = route(where_a_mask_may_be)
    assert shapes(schema)['minibatch["response_mask"]'] == "batch.token_mask B S-1>1?"


def test_what_may_be_there_is_asked_for_once():
    def never_content(log_probs, batch):
        batch.get("response_mask")
        raise ValueError("never content")

    with pytest.raises(CannotFeed, match="never content"):
        route(never_content)


def test_a_mistake_inside_a_list_is_seen():
    def forgets_its_mask(log_probs: list[Tensor], advantages: list[Tensor], loss_mask: list[Tensor]) -> Tensor:
        rows = zip(log_probs, advantages, loss_mask, strict=True)
        return torch.stack([-(p * a).sum() / m.sum().clamp(min=1) for p, a, m in rows]).mean()

    report = check_loss(forgets_its_mask, checks=("mask_value",), profile="quick", seed=0, device="cpu")
    assert [verdict.status for verdict in report.verdicts] == [Status.FAILED]


def test_a_field_nobody_knows_is_named():
    def odd(log_probs, batch):
        return (log_probs * batch["wobble"]).mean()

    with pytest.raises(CannotFeed) as caught:
        route(odd)
    assert str(caught.value).startswith("it reads batch['wobble'], whose meaning is not known")


def test_a_config_is_made_by_its_class_and_the_report_says_how():
    report = check_loss(with_a_config, checks=("scalar_output",), profile="quick", seed=0, device="cpu")
    (said,) = [line for line in report.warnings if "config" in line]
    assert said == (
        'nothing gives config a value, so Clip(clip=0.2) was taken: --loss-config \'{"config": {"clip": 0.2}}\''
    )


def test_a_config_that_is_given_is_one_of_its_class():
    settings = {"config": {"clip": 0.1}}
    report = check_loss(
        with_a_config, config=settings, checks=("scalar_output",), profile="quick", seed=0, device="cpu"
    )
    assert report.having(Status.PASSED)
    assert not any("config" in line for line in report.warnings)


def test_a_config_its_class_refuses_is_said_to_be_refused():
    with pytest.raises(TargetError, match="unexpected keyword argument 'clipp'"):
        check_loss(with_a_config, config={"config": {"clipp": 0.1}}, checks=("scalar_output",), device="cpu")


def test_a_setting_without_a_usual_value_is_named():
    def odd(args, log_probs, advantages):
        return -(log_probs * advantages * args.wobble).mean()

    with pytest.raises(CannotFeed, match="no value is usual for the setting 'wobble'"):
        route(odd)

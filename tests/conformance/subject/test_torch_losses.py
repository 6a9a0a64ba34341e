"""Every loss of torch.nn is fed correctly without configuration, and promises only what it keeps."""

import functools
import inspect
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from loss_conformance.cases.build import build
from loss_conformance.subject.torch_losses import (
    _FACTS,
    _FUNCTIONS,
    _OPTIONS,
    contract_of_torch_loss,
    slots_of_torch_loss,
)
from loss_conformance.subject.torch_slots import SLOTS
from tests.conformance.subject.fed import POOL, SITUATIONS, assert_fed, route, shapes, value

# Torch's own remarks about some of its losses.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Initializing zero-element tensors"),
    pytest.mark.filterwarnings("ignore:reduction. 'mean' divides the total loss"),
]

NEEDS_ARGUMENTS = {
    "AdaptiveLogSoftmaxWithLoss": {"in_features": 6, "n_classes": 9, "cutoffs": [3, 5]},
    "LinearCrossEntropyLoss": {"in_features": 6, "num_classes": 4},
}
EVERY = [
    name
    for name in dir(nn)
    if (name.endswith("Loss") or name.endswith("WithLoss"))
    and inspect.isclass(getattr(nn, name))
    and name != "NLLLoss2d"
]


def fed(cls, **config):
    config = {**NEEDS_ARGUMENTS.get(cls.__name__, {}), **config}
    return route(cls(**config), contract_of_torch_loss(cls(**config)))


def test_no_loss_of_torch_is_left_out():
    assert {cls.__name__ for cls in SLOTS} == set(EVERY)


@pytest.mark.parametrize("name", EVERY)
def test_fed_without_configuration(name):
    subject, schema = fed(getattr(nn, name))
    assert_fed(subject, schema)


@pytest.mark.parametrize("name", EVERY)
def test_bounds_hold(name):
    cls = getattr(nn, name)
    for reduction in ("mean", "sum", "none"):
        if "reduction" not in inspect.signature(cls).parameters:
            continue
        subject, schema = fed(cls, reduction=reduction)
        contract = contract_of_torch_loss(subject.loss)
        for situation in SITUATIONS:
            for plan in POOL[situation]:
                loss = value(subject, schema, plan)
                assert contract.lower_bound is None or bool((loss >= contract.lower_bound - 1e-6).all())
                assert contract.upper_bound is None or bool((loss <= contract.upper_bound + 1e-6).all())


@pytest.mark.parametrize("name", EVERY)
def test_loaded_by_its_dotted_name(name):
    subject, schema = route(f"torch.nn.{name}", config=NEEDS_ARGUMENTS.get(name))
    assert_fed(subject, schema, ("typical",))


@pytest.mark.parametrize("function", _FUNCTIONS, ids=lambda function: function.__name__)
def test_functions_are_fed_like_their_modules(function):
    subject, schema = route(function)
    assert_fed(subject, schema, ("typical", "full", "one_row"))
    module, module_schema = route(_FUNCTIONS[function]())
    plan = POOL["typical"][0]
    assert torch.equal(value(subject, schema, plan), value(module, module_schema, plan))


def test_tables_name_real_classes_and_settings():
    assert set(_FACTS) <= set(EVERY)
    for name, options in _OPTIONS.items():
        assert set(options) <= set(inspect.signature(getattr(nn, name)).parameters)


def test_reductions():
    facts = {
        reduction: contract_of_torch_loss(nn.MSELoss(reduction=reduction)) for reduction in ("mean", "sum", "none")
    }
    assert (facts["mean"].normalizer, facts["mean"].output) == ("local", "scalar")
    assert (facts["sum"].normalizer, facts["sum"].output) == ("sum", "scalar")
    assert (facts["none"].normalizer, facts["none"].output) == ("sum", "terms")
    assert contract_of_torch_loss(nn.KLDivLoss()).lower_bound == 0.0
    assert contract_of_torch_loss(nn.KLDivLoss(reduction="none")).lower_bound == float("-inf")


def test_other_objects_are_not_of_torch():
    for other in (nn.Linear(2, 2), len, F.relu, 3, lambda input, target: input):
        assert contract_of_torch_loss(other) is None
        assert slots_of_torch_loss(other) is None


@pytest.mark.parametrize("cls", [nn.CrossEntropyLoss, nn.NLLLoss])
def test_empty_target_set(cls):
    subject, schema = fed(cls)
    plan = replace(POOL["all_masked"][0], samples="none")
    assert contract_of_torch_loss(subject.loss).empty == "nan"
    assert bool(value(subject, schema, plan).isnan())
    subject, schema = fed(cls, reduction="sum")
    assert contract_of_torch_loss(subject.loss).empty == "zero"
    assert value(subject, schema, plan).item() == 0.0


def test_ignored_labels_are_the_absent_rows():
    for ignore in (-100, 0, 2):
        _, schema = fed(nn.CrossEntropyLoss, ignore_index=ignore)
        for plan in POOL["absent_rows"]:
            case = build(schema, plan)
            labels = case.tensors["target"]
            assert torch.equal(labels == ignore, case.rows == 0)
            assert set(case.rows.tolist()) <= {0.0, 1.0}


def test_class_weights_fix_the_number_of_classes():
    subject, schema = fed(nn.CrossEntropyLoss, weight=torch.tensor([1.0, 2.0, 0.5]))
    assert shapes(schema) == {"input": "logits B 3*", "target": "labels B!"}
    assert contract_of_torch_loss(subject.loss).coupled
    assert_fed(subject, schema)
    subject, schema = fed(nn.BCEWithLogitsLoss, pos_weight=torch.tensor([1.0, 2.0, 0.5]))
    assert_fed(subject, schema)


@pytest.mark.parametrize("blank", [0, 4])
def test_ctc_labels_avoid_the_blank(blank):
    subject, schema = fed(nn.CTCLoss, blank=blank)
    assert_fed(subject, schema)
    for situation in SITUATIONS:
        for plan in POOL[situation]:
            case = build(schema, plan)
            assert not bool((case.tensors["targets"] == blank).any())
            assert bool((case.tensors["input_lengths"] >= 2 * case.tensors["target_lengths"]).all())


def test_multilabel_targets_end_with_minus_one():
    _, schema = fed(nn.MultiLabelMarginLoss)
    for plan in POOL["typical"]:
        for row in build(schema, plan).tensors["target"].tolist():
            positives = row[: row.index(-1)] if -1 in row else row
            assert positives
            assert len(set(positives)) == len(positives)
            assert row[len(positives) :] == [-1] * (len(row) - len(positives))


def test_other_settings():
    for loss in (nn.KLDivLoss(log_target=True), nn.PoissonNLLLoss(log_input=False), nn.PoissonNLLLoss(full=True)):
        subject, schema = route(loss)
        assert_fed(subject, schema)


def test_subclasses_inherit():
    class Scaled(nn.MSELoss):
        def forward(self, input, target):
            return 2 * super().forward(input, target)

    class Renamed(nn.CTCLoss):
        def forward(self, logits, labels):
            return F.cross_entropy(logits, labels)

    assert contract_of_torch_loss(Scaled()).lower_bound == 0.0
    assert shapes(route(Scaled())[1]) == {"input": "values B D*", "target": "values B D"}
    assert shapes(route(Renamed())[1]) == {"logits": "logits B V*", "labels": "labels B!"}


def test_partial_of_a_function():
    smoothed = functools.partial(F.cross_entropy, label_smoothing=0.1, reduction="sum")
    assert contract_of_torch_loss(smoothed).normalizer == "sum"
    subject, schema = route(smoothed)
    assert_fed(subject, schema)

"""Sizes a loss was made for decide the sizes of its inputs."""

import functools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.conformance.subject.fed import assert_fed, route, shapes


class Margin(nn.Module):
    """A weight [D, C], as pytorch-metric-learning keeps it."""

    def __init__(self, classes=3, features=4, transposed=False, keep=True, centres=1):
        super().__init__()
        shape = (classes * centres, features) if transposed else (features, classes * centres)
        self.weight = nn.Parameter(torch.linspace(-1, 1, shape[0] * shape[1]).reshape(shape))
        self.transposed, self.centres, self.classes_ = transposed, centres, classes
        if keep:
            self.num_classes = classes

    def forward(self, embeddings, labels):
        logits = embeddings @ (self.weight.T if self.transposed else self.weight)
        logits = logits.reshape(len(logits), self.classes_, self.centres).amax(-1)
        return F.cross_entropy(logits, labels)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("keep", [False, True])
def test_classes_and_features(transposed, keep):
    subject, schema = route(Margin(transposed=transposed, keep=keep))
    assert shapes(schema) == {"embeddings": "embeddings B 4*", "labels": "labels B!"}
    assert schema.slots[1].high == 3.0
    assert_fed(subject, schema)


def test_several_vectors_for_each_class():
    subject, schema = route(Margin(centres=2))
    assert shapes(schema)["embeddings"] == "embeddings B 4*"
    assert_fed(subject, schema)


def test_features_by_name():
    class Projected(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding_dim = 6
            self.linear = nn.Linear(6, 2)

        def forward(self, z_a, z_b):
            return F.mse_loss(self.linear(z_a), self.linear(z_b))

    subject, schema = route(Projected())
    assert shapes(schema) == {"z_a": "embeddings B 6*", "z_b": "embeddings B 6*"}
    assert_fed(subject, schema)


def test_classes_of_a_classifier():
    class Smoothed(nn.Module):
        def __init__(self):
            super().__init__()
            self.num_classes = 4

        def forward(self, pred, target):
            return (pred.log_softmax(-1) * -F.one_hot(target, self.num_classes)).sum(-1).mean()

    _, schema = route(Smoothed())
    assert shapes(schema) == {"pred": "logits B 4*", "target": "labels B!"}
    assert schema.slots[1].high == 4.0


def test_given_to_a_function():
    def classified(logits, target, num_classes=None):
        return (logits.log_softmax(-1) * -F.one_hot(target, num_classes)).sum(-1).mean()

    _, schema = route(functools.partial(classified, num_classes=5))
    assert shapes(schema)["logits"] == "logits B 5*"


def test_without_sizes_of_its_own():
    _, schema = route(nn.CosineEmbeddingLoss())
    assert "B D" in shapes(schema)["input1"]

"""The pairwise contrastive loss and InfoNCE."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from loss_reference import ConfigError, ContrastiveLoss, InfoNCELoss, LossFunction
from loss_reference.contrastive.similarity import cosine_similarity
from tests.reference.cases import case, value_and_gradient

LOSSES = (ContrastiveLoss, InfoNCELoss)
# Row 0 is the anchor. Cosines with it: row 1 0.6, row 2 0, row 3 -1.
EMBEDDINGS = torch.tensor([[2.0, 0.0], [3.0, 4.0], [0.0, 5.0], [-7.0, 0.0]], dtype=torch.float64)


def batch_of(positive: list[list[int]], negative: list[list[int]], **extra: Tensor) -> dict[str, Tensor]:
    pairs = {"positive_pairs": positive, "negative_pairs": negative}
    return {name: torch.tensor(x, dtype=torch.int64).reshape(-1, 2) for name, x in pairs.items()} | extra


def value_of(loss: LossFunction, batch: dict[str, Tensor], embeddings: Tensor = EMBEDDINGS) -> float:
    return value_and_gradient(loss, batch, {"embeddings": embeddings}, "embeddings")[0].item()


def test_cosine() -> None:
    pairs = torch.tensor([[0, 1], [0, 2], [0, 3], [1, 1]])
    assert cosine_similarity(EMBEDDINGS, pairs).tolist() == pytest.approx([0.6, 0, -1, 1])
    expected = F.cosine_similarity(EMBEDDINGS[pairs[:, 0]], EMBEDDINGS[pairs[:, 1]])
    torch.testing.assert_close(cosine_similarity(EMBEDDINGS, pairs), expected)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-9])
def test_a_vector_without_length_has_a_finite_gradient(loss: type[LossFunction], scale: float) -> None:
    embeddings = EMBEDDINGS.float() * torch.tensor([[1.0], [scale], [1.0], [1.0]])
    value, gradient = value_and_gradient(loss(), batch_of([[0, 1]], [[0, 2]]), {"embeddings": embeddings}, "embeddings")
    assert math.isfinite(value)
    assert torch.isfinite(gradient).all()


def test_pairwise_by_hand() -> None:
    batch = batch_of([[0, 1], [0, 2]], [[0, 2], [0, 1]])
    expected = (math.log1p(math.exp(-0.6 / 0.5)) + math.log1p(math.exp(0.6 / 0.5))) / 2
    assert value_of(ContrastiveLoss({"temperature": 0.5}), batch) == pytest.approx(expected)


def test_infonce_by_hand() -> None:
    batch = batch_of([[0, 1], [2, 1]], [[0, 2], [0, 3], [1, 2]])  # row 2 as an anchor has no negatives
    t = 0.5
    first = -0.6 / t + math.log(math.exp(0.6 / t) + math.exp(0 / t) + math.exp(-1 / t))
    assert value_of(InfoNCELoss({"temperature": t}), batch) == pytest.approx(first / 2)


def test_equal_similarities() -> None:
    same = torch.ones(4, 2, dtype=torch.float64)
    assert value_of(ContrastiveLoss(), batch_of([[0, 1]], [[2, 3]]), same) == pytest.approx(math.log(2))
    batch = batch_of([[0, 1]], [[0, 2], [0, 3], [0, 1], [1, 0]])
    assert value_of(InfoNCELoss(), batch, same) == pytest.approx(math.log(1 + 3))


def test_infonce_with_one_negative_is_pairwise() -> None:
    batch = batch_of([[0, 1], [2, 3], [3, 1]], [[0, 2], [2, 1], [3, 0]])
    pairwise = value_and_gradient(ContrastiveLoss(), batch, {"embeddings": EMBEDDINGS}, "embeddings")
    infonce = value_and_gradient(InfoNCELoss(), batch, {"embeddings": EMBEDDINGS}, "embeddings")
    torch.testing.assert_close(infonce, pairwise)


def test_another_negative_never_lowers_infonce() -> None:
    values = [value_of(InfoNCELoss(), batch_of([[0, 1]], [[0, 3], [0, 2], [0, 0]][:n])) for n in range(4)]
    assert values[0] == 0
    assert values == sorted(values)


def test_weights_are_the_smallest_of_the_rows_touched() -> None:
    mask = torch.tensor([1.0, 0.5, 2.0, 0.25], dtype=torch.float64)
    terms = [math.log1p(math.exp(-0.6 / 0.1)), math.log1p(math.exp(-1 / 0.1))]
    batch = batch_of([[0, 1], [0, 2]], [[0, 2], [0, 3]], sample_mask=mask)
    assert value_of(ContrastiveLoss(), batch) == pytest.approx((0.5 * terms[0] + 0.25 * terms[1]) / 1)
    batch = batch_of([[0, 1], [0, 2]], [[0, 3]], sample_mask=mask * 2)
    terms = [math.log1p(math.exp(-1.6 / 0.1)), math.log1p(math.exp(-1 / 0.1))]
    assert value_of(InfoNCELoss(), batch) == pytest.approx((1 * terms[0] + 2 * terms[1]) / 3)


@pytest.mark.parametrize("content", [math.nan, math.inf, -math.inf, 1e10])
def test_absent_rows_are_no_negatives(content: float) -> None:
    embeddings = EMBEDDINGS.clone()
    embeddings[3] = content
    mask = torch.tensor([1.0, 1, 1, 0])
    batch = batch_of([[0, 1], [0, 3]], [[0, 2], [0, 3]], sample_mask=mask)
    for loss in (InfoNCELoss(), ContrastiveLoss()):
        value, gradient = value_and_gradient(loss, batch, {"embeddings": embeddings}, "embeddings")
        assert value.item() == pytest.approx(math.log1p(math.exp(-0.6 / 0.1)))
        assert gradient[3].abs().sum() == 0
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("loss", LOSSES)
def test_no_pairs_is_zero_with_the_graph(loss: type[LossFunction]) -> None:
    value, gradient = value_and_gradient(loss(), batch_of([], []), {"embeddings": EMBEDDINGS}, "embeddings")
    assert value == 0
    assert gradient.abs().sum() == 0


@pytest.mark.parametrize("loss", LOSSES)
def test_any_temperature_stays_finite_in_float32(loss: type[LossFunction]) -> None:
    for temperature in (1e-6, 1e6):
        value, gradient = value_and_gradient(
            loss({"temperature": temperature}),
            batch_of([[0, 3]], [[0, 1]]),
            {"embeddings": EMBEDDINGS.float()},
            "embeddings",
        )
        assert math.isfinite(value)
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("loss", LOSSES)
def test_similarity_can_be_replaced(loss: type[LossFunction]) -> None:
    class DotProduct(loss):  # type: ignore[misc, valid-type]
        def compute_similarity(self, pairs: Tensor, model_outputs: dict[str, Tensor]) -> Tensor:
            e = model_outputs["embeddings"]
            return (e[pairs[:, 0]] * e[pairs[:, 1]]).sum(-1)

    batch = batch_of([[0, 1]], [[0, 2]])
    assert value_of(DotProduct({"temperature": 10.0}), batch) == pytest.approx(math.log1p(math.exp(-6 / 10)))


def test_gradient_matches_finite_differences() -> None:
    batch, outputs = case(1)
    for loss in (ContrastiveLoss({"temperature": 0.5}), InfoNCELoss({"temperature": 0.5})):
        assert torch.autograd.gradcheck(
            lambda e, loss=loss: loss.compute_loss(batch, {"embeddings": e}), outputs["embeddings"].requires_grad_()
        )


@pytest.mark.parametrize("row", [-1, 4])
def test_rows_outside_the_embeddings_are_refused(row: int) -> None:
    with pytest.raises(ValueError, match=r"negative_pairs holds rows -?\d to \d; the embeddings have rows 0 to 3"):
        value_of(ContrastiveLoss(), batch_of([[0, 1]], [[0, row]]))


def test_config_errors() -> None:
    for loss in LOSSES:
        with pytest.raises(ConfigError) as error:
            loss({"temperature": 0.0})
        assert str(error.value) == f"{loss.__name__}: temperature=0.0 is out of range; expected a number above 0"

"""The entropy bonus: entropies by hand, the tokens it keeps, and what divides it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from loss_reference import ConfigError, EntropyBonusLoss
from loss_reference.policy_gradient.entropy import entropy, most_uncertain
from tests.reference.cases import value_and_gradient
from tests.reference.policy_gradient.further import further_case


def logits_of(probabilities: list[float]) -> Tensor:
    return torch.tensor(probabilities, dtype=torch.float64).log()


def test_entropy_by_hand() -> None:
    assert entropy(torch.zeros(7)).item() == pytest.approx(math.log(7))
    assert entropy(logits_of([0.5, 0.25, 0.25])).item() == pytest.approx(1.5 * math.log(2))
    assert entropy(logits_of([0.5, 0.5, 0.0])).item() == pytest.approx(math.log(2))  # a logit of -inf
    assert entropy(torch.tensor([1e4, 0.0])).item() == 0
    shifted = entropy(logits_of([0.5, 0.25, 0.25]) + 1e3)
    assert shifted.item() == pytest.approx(1.5 * math.log(2))


def test_gradient_of_the_entropy_with_an_impossible_token() -> None:
    p = [0.5, 0.3, 0.2, 0.0]
    z = logits_of(p).requires_grad_()
    H = entropy(z)
    (gradient,) = torch.autograd.grad(H, z)
    expected = [-q * (math.log(q) + H.item()) if q else 0.0 for q in p]
    assert gradient.tolist() == pytest.approx(expected)


def test_at_most_zero_and_smallest_where_nothing_is_known() -> None:
    batch, outputs = further_case(1, "logits")
    value, _ = value_and_gradient(EntropyBonusLoss({"coefficient": 0.5}), batch, outputs, "logits")
    floor = -0.5 * math.log(outputs["logits"].shape[-1])
    assert floor < value < 0
    uniform = {"logits": torch.zeros_like(outputs["logits"])}
    value, gradient = value_and_gradient(EntropyBonusLoss({"coefficient": 0.5}), batch, uniform, "logits")
    assert value.item() == pytest.approx(floor)
    assert gradient.abs().max() < 1e-16


ENTROPIES = torch.tensor([[0.1, 0.5, 0.3], [0.9, 0.7, 0.2]], dtype=torch.float64)
TRAINED = torch.tensor([[True, True, True], [False, True, True]])


@pytest.mark.parametrize(
    ("share", "kept"),
    [
        (1.0, [[1, 1, 1], [0, 1, 1]]),
        (0.0, [[0, 0, 0], [0, 1, 0]]),  # the largest of the trained ones
        (0.5, [[0, 1, 1], [0, 1, 0]]),  # at least the median 0.3
        (0.4, [[0, 1, 0], [0, 1, 0]]),  # the 0.6-quantile is 0.3 + 0.4 * 0.2
        (0.25, [[0, 1, 0], [0, 1, 0]]),
        (0.2, [[0, 0, 0], [0, 1, 0]]),
    ],
)
def test_most_uncertain_by_hand(share: float, kept: list[list[int]]) -> None:
    assert most_uncertain(ENTROPIES, TRAINED, share).int().tolist() == kept


def test_most_uncertain_of_nothing() -> None:
    assert not most_uncertain(ENTROPIES, torch.zeros(2, 3, dtype=torch.bool), 0.5).any()
    assert most_uncertain(torch.zeros(2, 0), torch.zeros(2, 0, dtype=torch.bool), 0.5).shape == (2, 0)
    assert most_uncertain(torch.zeros(2, 3), TRAINED, 0.0).equal(TRAINED)  # all alike


@pytest.mark.parametrize(("divisor", "count"), [("trained", 29.0), ("kept", None)])
def test_what_divides_the_kept_tokens(divisor: str, count: float | None) -> None:
    batch, outputs = further_case(2, "logits", sample_mask="floats", counts=True)
    m = batch["token_mask"][:, 1:] * batch["sample_mask"][:, None]
    H = entropy(outputs["logits"][:, :-1])
    kept = H[m != 0].quantile(0.4) <= H
    loss = EntropyBonusLoss({"top_quantile": 0.6, "divisor": divisor, "coefficient": 1.0})
    value, _ = value_and_gradient(loss, batch, outputs, "logits")
    total = (m * H * kept).sum()
    torch.testing.assert_close(value, -total / (count or (m * kept).sum()))
    assert loss.contract.normalizer == ("global" if divisor == "trained" else "local")
    by_row = EntropyBonusLoss({"top_quantile": 0.6, "divisor": divisor, "aggregation": "seq_mean_token_mean"})
    n = (m if divisor == "trained" else m * kept).sum(dim=1)
    rows = (m * H * kept).sum(dim=1) / torch.where(n != 0, n, 1.0)
    expected = -0.01 * (batch["sample_mask"] * rows).sum() / batch["global_valid_seqs"]
    torch.testing.assert_close(by_row.compute_loss(batch, outputs), expected)


def test_a_masked_token_is_no_part_of_the_quantile() -> None:
    batch, outputs = further_case(3, "logits")
    loss = EntropyBonusLoss({"top_quantile": 0.5})
    value, gradient = value_and_gradient(loss, batch, outputs, "logits")
    absent = (batch["token_mask"][:, 1:] * batch["sample_mask"][:, None]) == 0
    other = outputs["logits"].clone()
    other[:, :-1][absent] = 0.0  # the largest entropy there is
    got, got_gradient = value_and_gradient(loss, batch, {"logits": other}, "logits")
    assert torch.equal(got, value)
    assert torch.equal(got_gradient, gradient)
    assert not (gradient[:, :-1].abs().sum(-1) != 0).equal(~absent)  # and some trained tokens are left out


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"coefficient": -1}, "EntropyBonusLoss: coefficient=-1 is out of range; expected a number at least 0"),
        ({"top_quantile": 1.5}, "EntropyBonusLoss: top_quantile=1.5 is out of range; expected a number at least 0"),
        ({"divisor": "all"}, "EntropyBonusLoss: divisor='all'; expected one of 'trained', 'kept'"),
    ],
)
def test_config_errors(config: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        EntropyBonusLoss(config)
    assert str(error.value).startswith(message)


def test_logits_are_needed() -> None:
    batch, outputs = further_case(4, "logits")
    with pytest.raises(KeyError, match="logits"):
        EntropyBonusLoss().compute_loss(batch, {})
    with pytest.raises(ValueError, match="logits has shape"):
        EntropyBonusLoss().compute_loss(batch, {"logits": outputs["logits"][:, 1:]})

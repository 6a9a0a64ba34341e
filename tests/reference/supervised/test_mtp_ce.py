"""Multi-token prediction: which head meets which token, and what it is divided by."""

from __future__ import annotations

import math

import pytest
import torch

from loss_reference import registry
from tests.reference.cases import Tensors, case, value_and_gradient

IDS = torch.tensor([[0, 1, 2, 3, 4]])
MASK = torch.tensor([[1.0, 1, 0, 1, 1]])


def uniform_but(head: int, position: int, token: int) -> Tensors:
    """Return logits of two heads over 5 tokens, uniform except that one of them is sure of one token."""
    logits = torch.zeros(1, 5, 2, 5, dtype=torch.float64)
    logits[0, position, head] = -50.0
    logits[0, position, head, token] = 0.0
    return {"mtp_logits": logits}


def mtp(outputs: Tensors, config: dict[str, object] | None = None, **extra: torch.Tensor) -> float:
    batch = {"input_ids": IDS, "token_mask": MASK} | extra
    return registry.create("mtp_ce", config).compute_loss(batch, outputs).item()


@pytest.mark.parametrize(("head", "position", "token"), [(0, 0, 1), (0, 2, 3), (0, 3, 4), (1, 1, 3), (1, 2, 4)])
def test_head_d_predicts_the_token_d_ahead(head: int, position: int, token: int) -> None:
    # Head 1 predicts the 3 trained tokens 1, 3, 4; head 2 only tokens 3 and 4: nothing stands two before token 1.
    assert mtp(uniform_but(head, position, token)) == pytest.approx((5 - 1) / 3 * math.log(5))
    assert mtp(uniform_but(head, position, (token + 1) % 5)) == pytest.approx((4 * math.log(5) + 50) / 3)


@pytest.mark.parametrize(("head", "position"), [(0, 1), (0, 4), (1, 0), (1, 3), (1, 4)])
def test_nothing_else_is_read(head: int, position: int) -> None:
    outputs = uniform_but(0, 0, 1)
    expected = mtp(outputs)
    outputs["mtp_logits"][0, position, head] = math.nan
    assert mtp(outputs) == expected
    batch = {"input_ids": IDS, "token_mask": MASK}
    _, gradient = value_and_gradient("mtp_ce", batch, outputs, "mtp_logits")
    assert gradient[0, position, head].abs().sum() == 0
    assert torch.isfinite(gradient).all()


def test_weights_of_heads_and_counts() -> None:
    uniform = {"mtp_logits": torch.zeros(1, 5, 2, 5)}
    assert mtp(uniform, {"head_weights": [0.5, 2]}) == pytest.approx((0.5 * 3 + 2 * 2) / 3 * math.log(5))
    assert mtp(uniform, global_valid_toks=torch.tensor(10.0)) == pytest.approx(5 / 10 * math.log(5))
    assert mtp(uniform, sample_mask=torch.tensor([0.5])) == pytest.approx(0.5 * 5 / 1.5 * math.log(5))
    with pytest.raises(ValueError, match="head_weights has 1 entries; mtp_logits has 2 heads"):
        mtp(uniform, {"head_weights": [1.0]})


def test_a_head_of_weight_0_is_not_read() -> None:
    outputs = uniform_but(0, 0, 1)
    outputs["mtp_logits"][:, :, 1] = math.nan
    assert mtp(outputs, {"head_weights": [1.0, 0.0]}) == pytest.approx(2 / 3 * math.log(5))


def test_more_heads_than_tokens() -> None:
    few = mtp({"mtp_logits": torch.zeros(1, 5, 4, 5)})
    outputs = {"mtp_logits": torch.full((1, 5, 9, 5), 0.0)}
    assert mtp(outputs) == pytest.approx(few)
    _, gradient = value_and_gradient("mtp_ce", {"input_ids": IDS, "token_mask": MASK}, outputs, "mtp_logits")
    assert gradient[:, :, 4:].abs().sum() == 0


@pytest.mark.parametrize("counts", [False, True])
def test_one_head_is_nll(counts: bool) -> None:
    batch, outputs = case(3, source="logits", sample_mask="floats", counts=counts)
    value, gradient = value_and_gradient("nll", batch, outputs, "logits")
    outputs["mtp_logits"] = outputs["logits"].unsqueeze(2)
    got, got_gradient = value_and_gradient("mtp_ce", batch, outputs, "mtp_logits")
    torch.testing.assert_close(got, value, rtol=1e-15, atol=0)
    torch.testing.assert_close(got_gradient.squeeze(2), gradient, rtol=1e-14, atol=1e-17)


def test_a_shift_of_the_scores_of_a_head_changes_nothing() -> None:
    g = torch.Generator().manual_seed(3)
    logits = torch.randn(1, 5, 2, 5, generator=g, dtype=torch.float64)
    batch = {"input_ids": IDS, "token_mask": MASK}
    expected = value_and_gradient("mtp_ce", batch, {"mtp_logits": logits}, "mtp_logits")
    moved = {"mtp_logits": logits + 30 * torch.randn(1, 5, 2, 1, generator=g, dtype=torch.float64)}
    torch.testing.assert_close(
        value_and_gradient("mtp_ce", batch, moved, "mtp_logits"), expected, rtol=1e-12, atol=1e-15
    )


def test_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"mtp_logits has shape \(1, 5, 5\); expected \(1, 5, H, V\)"):
        mtp({"mtp_logits": torch.zeros(1, 5, 5)})
    with pytest.raises(ValueError, match="input_ids holds token id 4, outside the vocabulary of 3 logits"):
        mtp({"mtp_logits": torch.zeros(1, 5, 2, 3)})

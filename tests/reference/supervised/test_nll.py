"""NLL: L = -sum m lp / T_g."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from loss_reference import ConfigError, NLLLoss
from tests.reference.cases import Tensors, case, value_and_gradient

# Three trained tokens in row 0 (lp -1, -2, -3), one in row 1 (lp -10); column 0 of the mask means nothing.
BATCH = {"token_mask": torch.tensor([[1.0, 1, 1, 1], [1, 0, 1, 0]])}
OUTPUTS = {"next_token_logprobs": torch.tensor([[-1.0, -2, -3], [-77, -10, -77]])}


def nll(config: dict[str, object] | None = None, **extra: object) -> float:
    batch = BATCH | {name: torch.tensor(x) for name, x in extra.items()}
    return NLLLoss(config).compute_loss(batch, OUTPUTS).item()


@pytest.mark.parametrize(
    ("config", "by_hand"),
    [
        ({}, (1 + 2 + 3 + 10) / 4),
        ({"aggregation": "seq_mean_token_mean"}, ((1 + 2 + 3) / 3 + 10) / 2),
        ({"aggregation": "seq_mean_token_sum"}, (6 + 10) / 2),
        ({"aggregation": "fixed", "max_length": 8}, (6 + 10) / (2 * 8)),
    ],
)
def test_by_hand(config: dict[str, object], by_hand: float) -> None:
    assert nll(config) == pytest.approx(by_hand, rel=1e-6)


@pytest.mark.parametrize(
    ("config", "by_hand"),
    [
        ({}, (0.5 * 6 + 2 * 10) / (0.5 * 3 + 2 * 1)),
        ({"aggregation": "seq_mean_token_mean"}, (0.5 * 2 + 2 * 10) / 2.5),
        ({"aggregation": "seq_mean_token_sum"}, (0.5 * 6 + 2 * 10) / 2.5),
        ({"aggregation": "fixed", "max_length": 8}, (0.5 * 6 + 2 * 10) / (2.5 * 8)),
    ],
)
def test_float_sample_mask_by_hand(config: dict[str, object], by_hand: float) -> None:
    assert nll(config, sample_mask=[0.5, 2.0]) == pytest.approx(by_hand, rel=1e-6)


@pytest.mark.parametrize(
    ("config", "by_hand"),
    [
        ({}, 16 / 20),
        ({"aggregation": "seq_mean_token_mean"}, 12 / 5),
        ({"aggregation": "seq_mean_token_sum"}, 16 / 5),
        ({"aggregation": "fixed", "max_length": 8}, 16 / (5 * 8)),
    ],
)
def test_global_counts_by_hand(config: dict[str, object], by_hand: float) -> None:
    assert nll(config, global_valid_toks=20.0, global_valid_seqs=5.0) == pytest.approx(by_hand, rel=1e-6)


def test_a_row_without_trained_token_counts_as_a_sequence() -> None:
    batch = {"token_mask": torch.tensor([[1.0, 1, 1, 1], [1, 0, 0, 0]])}
    for aggregation, by_hand in [("token_mean", 6 / 3), ("seq_mean_token_mean", (2 + 0) / 2)]:
        assert NLLLoss({"aggregation": aggregation}).compute_loss(batch, OUTPUTS).item() == pytest.approx(by_hand)


def test_denominators_are_at_least_one() -> None:
    assert nll(sample_mask=[0.1, 0.1]) == pytest.approx(0.1 * 16 / 1, rel=1e-6)
    assert nll(global_valid_toks=0.0) == pytest.approx(16, rel=1e-6)


def test_gradient_is_minus_m_over_T() -> None:
    _, gradient = value_and_gradient(NLLLoss(), BATCH, OUTPUTS, "next_token_logprobs")
    assert torch.equal(gradient, torch.tensor([[-0.25, -0.25, -0.25], [0, -0.25, 0]]))


def test_uniform_logits_give_log_V() -> None:
    batch = BATCH | {"input_ids": torch.randint(7, (2, 4))}
    value, gradient = value_and_gradient(NLLLoss(), batch, {"logits": torch.full((2, 4, 7), 3.0)}, "logits")
    assert value.item() == pytest.approx(math.log(7), rel=1e-6)
    onehot = F.one_hot(batch["input_ids"][:, 1:], 7)
    torch.testing.assert_close(gradient[:, :-1], BATCH["token_mask"][:, 1:, None] * (1 / 7 - onehot) / 4)
    assert gradient[:, -1].abs().sum() == 0


def torch_cross_entropy(batch: Tensors, outputs: Tensors) -> torch.Tensor:
    present = batch["token_mask"] * batch["sample_mask"][:, None]
    labels = torch.where(present != 0, batch["input_ids"], -100)[:, 1:]
    return F.cross_entropy(outputs["logits"][:, :-1].flatten(0, 1), labels.flatten(), ignore_index=-100)


@pytest.mark.parametrize("chunk_size", [None, 1, 2, 5, 100])
def test_agrees_with_torch_cross_entropy(chunk_size: int | None) -> None:
    batch, outputs = case(1, source="logits")
    value, gradient = value_and_gradient(NLLLoss({"chunk_size": chunk_size}), batch, outputs, "logits")
    logits = outputs["logits"].clone().requires_grad_()
    expected = torch_cross_entropy(batch, {"logits": logits})
    torch.testing.assert_close(value, expected.detach(), rtol=1e-14, atol=0)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, logits)[0], rtol=1e-12, atol=1e-16)


def test_chunks_change_nothing_at_all() -> None:
    batch, outputs = case(2, source="logits", dtype=torch.float32)
    value, gradient = value_and_gradient(NLLLoss(), batch, outputs, "logits")
    for chunk_size in (1, 2, 5, 100):
        got, got_gradient = value_and_gradient(NLLLoss({"chunk_size": chunk_size}), batch, outputs, "logits")
        assert torch.equal(got, value)
        assert torch.equal(got_gradient, gradient)


def test_saturated_and_minus_inf_logits() -> None:
    batch = {"token_mask": torch.ones(1, 2), "input_ids": torch.tensor([[0, 1]])}
    for logits in ([0.0, 1e4, -math.inf], [-1e4, 1e4, 0.0], [-1e30, 1e30, -math.inf]):
        outputs = {"logits": torch.tensor([[logits, [math.nan] * 3]])}
        value, gradient = value_and_gradient(NLLLoss(), batch, outputs, "logits")
        assert value.item() == 0
        assert torch.equal(gradient, torch.zeros(1, 2, 3))


def test_small_differences_of_large_logits_keep_their_precision() -> None:
    batch = {"token_mask": torch.ones(1, 2), "input_ids": torch.tensor([[0, 0]])}
    outputs = {"logits": torch.full((1, 2, 2), 1e4)}
    assert NLLLoss().compute_loss(batch, outputs).item() == pytest.approx(math.log(2), rel=1e-7)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"aggregation": "fixed"}, "NLLLoss: aggregation='fixed' needs max_length, the number it divides by"),
        (
            {"aggregation": "token-mean"},
            "NLLLoss: aggregation='token-mean'; expected one of 'token_mean', 'seq_mean_token_mean', "
            "'seq_mean_token_sum', 'fixed'; did you mean 'token_mean'?",
        ),
        ({"max_length": 0}, "NLLLoss: max_length=0 is out of range; expected a number above 0"),
        ({"chunk_size": 0}, "NLLLoss: chunk_size=0 is out of range; expected a number at least 1"),
        ({"chunk_size": 2.5}, "NLLLoss: chunk_size=2.5; expected a whole number, at least 1"),
    ],
)
def test_config_errors(config: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        NLLLoss(config)
    assert str(error.value) == message


def test_contract_follows_the_aggregation() -> None:
    assert (NLLLoss().contract.level, NLLLoss().contract.length_normalized) == ("token", True)
    contract = NLLLoss({"aggregation": "fixed", "max_length": 4}).contract
    assert (contract.level, contract.length_normalized) == ("sequence", False)
    assert contract.family == "supervised"
    assert not contract.declares("stochastic")  # what nobody wrote down stays undeclared
    assert NLLLoss.contract.level == "token"

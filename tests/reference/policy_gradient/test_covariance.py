"""Clip-Cov and KL-Cov: which tokens they hold back, and what becomes of them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from loss_reference import ClipCovLoss, ConfigError, KLCovLoss, PPOClipLoss
from loss_reference.policy_gradient.covariance import first_of, token_covariance
from tests.reference.cases import Tensors, case, value_and_gradient
from tests.reference.policy_gradient.further import FIELD, further_case

# lp = (-1, -2, -3, -4), A = (3, 1, -1, -3): both means leave (1.5, .5, -.5, -1.5) and A itself, so cov is
COV = (4.5, 0.5, 0.5, 4.5)
ALL: dict[str, float] = {"clip_cov_lb": -100.0, "clip_cov_ub": 100.0}


def one_row(noise: list[float], rho: float = 1.0) -> tuple[Tensors, Tensors]:
    lp = torch.tensor([[-1.0, -2, -3, -4]], dtype=torch.float64)
    nan = torch.tensor([[math.nan]], dtype=torch.float64)
    batch = {
        "token_mask": torch.ones(1, 5),
        "prev_logprobs": torch.cat([nan, lp - math.log(rho)], dim=1),
        "advantages": torch.tensor([[math.nan, 3, 1, -1, -3]], dtype=torch.float64),
        "selection_noise": torch.tensor([[math.nan, *noise]], dtype=torch.float64),
    }
    return batch, {FIELD: lp}


def held_back(config: dict[str, float], noise: list[float]) -> list[int]:
    """Return the tokens whose gradient is 0, on policy."""
    _, gradient = value_and_gradient(ClipCovLoss(config), *one_row(noise), FIELD)
    return (gradient[0] == 0).nonzero().flatten().tolist()


def test_covariance_over_the_trained_tokens() -> None:
    batch, outputs = one_row([0.0] * 4)
    cov = token_covariance(outputs[FIELD].requires_grad_(), batch["advantages"][:, 1:], torch.ones(1, 4) != 0)
    assert cov[0].tolist() == pytest.approx(COV)
    assert not cov.requires_grad
    part = token_covariance(outputs[FIELD], batch["advantages"][:, 1:], torch.tensor([[True, True, False, False]]))
    assert part[0, :2].tolist() == pytest.approx([0.5, 0.5])  # around -1.5 and 2


@pytest.mark.parametrize(
    ("config", "noise", "expected"),
    [
        (
            {},
            [0.9, 0.1, 0.1, 0.8],
            [3],
        ),  # of 0 and 3, whose cov is within (1, 5), the smaller noise; one, as 2e-4 T < 1
        ({}, [0.5, 0, 0, 0.5], [0]),  # the same noise: the earlier
        ({"clip_cov_ratio": 0.25}, [0.9, 0.1, 0.1, 0.8], [3]),
        ({"clip_cov_ratio": 0.26}, [0.9, 0.1, 0.1, 0.8], [0, 3]),  # 1.04 is rounded up
        ({"clip_cov_ratio": 1.0}, [0.9, 0.1, 0.1, 0.8], [0, 3]),  # no more than there are
        ({"clip_cov_ub": 4.5}, [0.9, 0.1, 0.1, 0.8], []),  # the window is open
        ({"clip_cov_lb": 4.5}, [0.9, 0.1, 0.1, 0.8], []),
        ({"clip_cov_lb": 0.1, "clip_cov_ub": 1.0}, [0.9, 0.2, 0.1, 0.8], [2]),
        ({**ALL, "clip_cov_ratio": 0.75}, [0.3, 0.1, 0.4, 0.2], [0, 1, 3]),
    ],
)
def test_which_tokens_are_left_out(config: dict[str, float], noise: list[float], expected: list[int]) -> None:
    assert held_back(config, noise) == expected


def test_what_ppo_clips_is_no_candidate() -> None:
    """At rho = 2 tokens 0 and 1 (A > 0) are clipped anyway; of 2 and 3 the noise chooses, and the divisor stays 4."""
    batch, outputs = one_row([0.0, 0.1, 0.9, 0.8], rho=2.0)
    value, gradient = value_and_gradient(ClipCovLoss(ALL), batch, outputs, FIELD)
    assert gradient[0].tolist() == pytest.approx([0, 0, 0.5, 0])
    assert value.item() == pytest.approx((-3.6 - 1.2 + 2) / 4)


def test_an_empty_window_is_ppo() -> None:
    batch, outputs = further_case(1, sample_mask="floats", counts=True)
    never = ClipCovLoss({"clip_cov_lb": 1.0, "clip_cov_ub": 1.0})
    got, expected = (value_and_gradient(loss, batch, outputs, FIELD) for loss in (never, PPOClipLoss()))
    assert torch.equal(got[0], expected[0])
    assert torch.equal(got[1], expected[1])


def test_without_noise_it_is_drawn_from_the_generator() -> None:
    batch, outputs = further_case(2, rows=8, width=20)
    del batch["selection_noise"]
    loss = ClipCovLoss({**ALL, "clip_cov_ratio": 0.5})

    def drawn(seed: int) -> Tensor:
        loss.generator = torch.Generator().manual_seed(seed)
        return value_and_gradient(loss, batch, outputs, FIELD)[1]

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))
    state = torch.get_rng_state()
    drawn(3)
    assert torch.equal(torch.get_rng_state(), state)
    loss.generator = None
    first, second = (value_and_gradient(loss, batch, outputs, FIELD)[1] for _ in range(2))
    assert not torch.equal(first, second)


def test_the_number_is_rounded_up_in_float64() -> None:
    trained = torch.ones(3, 10, dtype=torch.bool)
    for share in (0.0, 1e-9, 0.1, 1 / 3, 0.3, 0.7, 1.0):
        expected = max(1, math.ceil(share * 30))
        assert first_of(torch.rand(3, 10), trained, trained, share).sum() == expected
    hundred = torch.ones(10, 10, dtype=torch.bool)
    assert first_of(torch.rand(10, 10), hundred, hundred, 0.3).sum() == math.ceil(0.3 * 100)  # float32: 31
    assert first_of(torch.rand(2, 0), trained[:2, :0], trained[:2, :0], 0.5).shape == (2, 0)
    assert not first_of(torch.rand(3, 10), ~trained, ~trained, 0.5).any()


def test_kl_cov_penalises_the_top_tokens_and_clips_none() -> None:
    """rho = 2: -A rho everywhere, and log 2 at the two of largest cov, the first and the last, which are equal."""
    batch, outputs = one_row([0.0] * 4, rho=2.0)
    for share, penalties in ((2e-4, [1, 0, 0, 1]), (0.26, [1, 0, 0, 1]), (1.0, [1, 1, 1, 1])):
        loss = KLCovLoss({"kl_cov_ratio": share, "ppo_kl_coef": 0.5})
        value, gradient = value_and_gradient(loss, batch, outputs, FIELD)
        minus_A = torch.tensor([-3.0, -1, 1, 3])
        assert value.item() == pytest.approx(0.5 * sum(penalties) * math.log(2) / 4)
        assert gradient[0].tolist() == pytest.approx(((2 * minus_A + 0.5 * torch.tensor(penalties)) / 4).tolist())


def test_kl_cov_on_policy_is_the_policy_gradient() -> None:
    batch, outputs = one_row([0.0] * 4)
    _, gradient = value_and_gradient(KLCovLoss({"kl_cov_ratio": 1.0}), batch, outputs, FIELD)
    torch.testing.assert_close(gradient, -batch["advantages"][:, 1:] / 4)  # |d| has slope 0 at 0


def test_without_advantages_the_penalty_of_kl_cov_is_left() -> None:
    """All covariances are 0 and equal: every token is a top one. Clip-Cov has nothing left."""
    batch, outputs = further_case(5, sample_mask="floats")
    batch["advantages"] = torch.zeros_like(batch["advantages"])
    m = batch["token_mask"][:, 1:] * batch["sample_mask"][:, None]
    delta = outputs[FIELD] - batch["prev_logprobs"][:, 1:]
    value, gradient = value_and_gradient(KLCovLoss({"ppo_kl_coef": 0.5}), batch, outputs, FIELD)
    torch.testing.assert_close(value, 0.5 * (m * delta.abs()).sum() / m.sum())
    torch.testing.assert_close(gradient, 0.5 * m * delta.sign() / m.sum())
    value, gradient = value_and_gradient(ClipCovLoss(ALL), batch, outputs, FIELD)
    assert value == 0
    assert gradient.abs().sum() == 0


def test_the_selection_looks_at_the_whole_batch() -> None:
    """One token of the batch is penalised, but one of every microbatch."""
    batch, outputs = case(4, sample_mask=None, counts=True)
    loss = KLCovLoss()
    assert loss.contract.coupled

    def penalised(rows: slice) -> Tensor:
        part = {k: x if x.dim() == 0 else x[rows] for k, x in batch.items() if "pairs" not in k}
        _, gradient = value_and_gradient(loss, part, {FIELD: outputs[FIELD][rows]}, FIELD)
        trained, A = part["token_mask"][:, 1:] != 0, part["advantages"][:, 1:]
        rho = (outputs[FIELD][rows] - part["prev_logprobs"][:, 1:]).exp()
        return ((gradient * batch["global_valid_toks"] + A * rho).abs() > 1e-9)[trained].sum()

    assert penalised(slice(0, 4)) == 1
    assert penalised(slice(0, 2)) + penalised(slice(2, 4)) > penalised(slice(0, 4))


@pytest.mark.parametrize(
    ("cls", "config", "message"),
    [
        (ClipCovLoss, {"clip_cov_lb": 6}, "ClipCovLoss: clip_cov_lb=6 is above clip_cov_ub=5.0"),
        (
            ClipCovLoss,
            {"clip_cov_ratio": 1.1},
            "ClipCovLoss: clip_cov_ratio=1.1 is out of range; expected a number at l",
        ),
        (
            KLCovLoss,
            {"kl_cov_ratio": -0.1},
            "KLCovLoss: kl_cov_ratio=-0.1 is out of range; expected a number at least 0",
        ),
        (KLCovLoss, {"ppo_kl_coef": -1}, "KLCovLoss: ppo_kl_coef=-1 is out of range; expected a number at least 0"),
        (KLCovLoss, {"ratio_clip_min": 0.2}, "KLCovLoss: unknown config key 'ratio_clip_min'; expected kl_cov_ratio"),
    ],
)
def test_config_errors(cls: type, config: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        cls(config)
    assert str(error.value).startswith(message)

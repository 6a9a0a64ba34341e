"""What the supervised formulas say of one another, what they never fall below, and logits of -inf that nobody trains on."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from loss_reference import registry
from tests.reference.cases import Tensors, case, value_and_gradient
from tests.reference.supervised.one_position import at_logits, at_logprob

Config = dict[str, Any]
LP = "next_token_logprobs"
AGGREGATIONS: list[Config] = [
    {"aggregation": "token_mean"},
    {"aggregation": "seq_mean_token_mean"},
    {"aggregation": "seq_mean_token_sum"},
    {"aggregation": "fixed", "max_length": 7.0},
]
OF_LOGITS = ("nll", "label_smoothed_ce", "focal_ce", "poly1_ce", "dft", "z_loss", "unlikelihood", "confidence_penalty")


@pytest.mark.parametrize("config", AGGREGATIONS)
def test_dft_raises_the_probability_itself(config: Config) -> None:
    """Its gradient is that of -p, the mean probability of the targets, for the logits as for the log-probabilities."""
    batch, outputs = case(61, source="logits", sample_mask="floats", counts=True)
    _, got = value_and_gradient(registry.create("dft", config), batch, outputs, "logits")
    logits = outputs["logits"].clone().requires_grad_()
    p = logits[:, :-1].softmax(-1).gather(-1, batch["input_ids"][:, 1:, None]).squeeze(-1)
    # The aggregate is linear: that of p is the NLL of "log-probabilities" -p.
    total = registry.create("nll", config).compute_loss(batch, {LP: p})
    (expected,) = torch.autograd.grad(total, logits)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-16)


def test_dft_is_reinforce_with_the_probability_as_advantage() -> None:
    """Reward 1 for the token of the data over its probability is NLL; DFT takes that importance weight back."""
    batch, outputs = case(63, sample_mask="floats", counts=True)
    p = torch.cat([torch.zeros(4, 1, dtype=torch.float64), outputs[LP].exp()], dim=1)
    for advantages, name in ((p, "dft"), (torch.ones_like(p), "nll")):
        expected = value_and_gradient(name, batch, outputs, LP)
        got = value_and_gradient("reinforce", {**batch, "advantages": advantages}, outputs, LP)
        torch.testing.assert_close(got, expected, rtol=1e-13, atol=1e-16)


@pytest.mark.parametrize(("name", "weight"), [("unlikelihood", "alpha"), ("confidence_penalty", "coefficient")])
def test_what_is_added_to_the_nll_is_linear_in_its_weight(name: str, weight: str) -> None:
    batch, outputs = case(65, source="logits", sample_mask="floats", counts=True)
    none, one, three = (
        value_and_gradient(registry.create(name, {weight: x}), batch, outputs, "logits") for x in (0.0, 1.0, 3.0)
    )
    for at_0, at_1, at_3 in zip(none, one, three, strict=True):
        torch.testing.assert_close(at_3 - at_0, 3 * (at_1 - at_0), rtol=1e-12, atol=1e-15)
        assert (at_1 - at_0).abs().sum() > 0.01


@pytest.mark.parametrize(("softcap", "coefficient"), [(None, 0.5), (2.0, 0.5)])
def test_z_loss_is_zero_exactly_where_the_logits_are_log_probabilities(
    softcap: float | None, coefficient: float
) -> None:
    lp = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64).log()
    uncapped = lp if softcap is None else softcap * torch.atanh(lp / softcap)
    value, gradient = at_logits("z_loss", uncapped.tolist(), {"softcap": softcap, "coefficient": coefficient})
    assert value == pytest.approx(0.0, abs=1e-30)
    assert gradient.abs().max() < 1e-15
    assert at_logits("z_loss", (uncapped + 0.1).tolist(), {"softcap": softcap, "coefficient": coefficient})[0] > 1e-4


def repeated(ids: list[int], candidate_logit: float, dtype: torch.dtype) -> tuple[Tensors, Tensors]:
    """Return a row whose last position has token 1 as its one candidate, with this logit beside two of 0."""
    batch = {"input_ids": torch.tensor([ids]), "token_mask": torch.tensor([[0.0, 1.0, 1.0]], dtype=dtype)}
    logits = torch.zeros(1, 3, 3, dtype=dtype)
    logits[0, 1, 1] = candidate_logit
    return batch, {"logits": logits}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_unlikelihood_is_zero_exactly_where_no_candidate_is_possible(dtype: torch.dtype) -> None:
    loss, plain = registry.create("unlikelihood", {"alpha": 0.7}), registry.create("nll")
    batch, outputs = repeated([0, 1, 2], -math.inf, dtype)
    value, gradient = value_and_gradient(loss, batch, outputs, "logits")
    torch.testing.assert_close((value, gradient), value_and_gradient(plain, batch, outputs, "logits"))
    assert gradient.isfinite().all()
    for logit in (-80.0, -10.0, 0.0, 10.0, 1e4):
        batch, outputs = repeated([0, 1, 2], logit, dtype)
        added = loss.compute_loss(batch, outputs) - plain.compute_loss(batch, outputs)
        # -log(1 - p) = log(1 + e^z / 2), of which the mean is over two tokens; the NLL it is added to rounds it.
        expected = (
            0.7 / 2 * float(torch.logaddexp(torch.zeros(()).double(), torch.tensor(logit).double() - math.log(2)))
        )
        assert added.item() == pytest.approx(expected, rel=1e-6, abs=4 * torch.finfo(dtype).eps)
    batch, outputs = repeated([0, 1, 1], 3.0, dtype)  # the one candidate is the target: C_t is empty
    assert torch.equal(loss.compute_loss(batch, outputs), plain.compute_loss(batch, outputs))


def label(V: int, e: float, spread: str) -> torch.Tensor:
    rest = e / V if spread == "vocabulary" else e / (V - 1)
    q = torch.full((V,), rest, dtype=torch.float64)
    q[0] = 1 - e + (rest if spread == "vocabulary" else 0.0)
    return q


@pytest.mark.parametrize("spread", ["vocabulary", "others"])
@pytest.mark.parametrize("e", [0.05, 0.4])
def test_label_smoothing_is_never_below_the_entropy_of_its_label(e: float, spread: str) -> None:
    V, g = 6, torch.Generator().manual_seed(67)
    q = label(V, e, spread)
    least = -(q * q.log()).sum().item()
    if spread == "vocabulary":
        stated = -(1 - e + e / V) * math.log(1 - e + e / V) - (V - 1) * (e / V) * math.log(e / V)
        assert least == pytest.approx(stated, rel=1e-14)
    config = {"label_smoothing": e, "spread": spread}
    for spread_of_logits in (0.1, 1.0, 10.0, 300.0):
        for _ in range(20):
            logits = torch.randn(V, generator=g, dtype=torch.float64) * spread_of_logits
            value, gradient = at_logits("label_smoothed_ce", logits.tolist(), config)
            assert value >= least - 1e-14
            torch.testing.assert_close(gradient, logits.softmax(0) - q, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(
    ("name", "config", "lowest", "highest"),
    [
        ("nll", {}, 0.0, math.inf),
        ("dft", {}, 0.0, math.exp(-1)),
        ("focal_ce", {"gamma": 0.5}, 0.0, math.inf),
        ("poly1_ce", {"epsilon": -1.0}, 0.0, math.inf),
        ("z_loss", {}, 0.0, math.inf),
        ("unlikelihood", {}, 0.0, math.inf),
        ("confidence_penalty", {"coefficient": 2.0}, -2.0 * math.log(5), math.inf),
    ],
)
def test_stays_within_its_bounds(name: str, config: Config, lowest: float, highest: float) -> None:
    for seed in range(40):
        batch, outputs = case(seed, source="logits")
        for scale in (0.01, 1.0, 30.0, 1e4):
            value = registry.create(name, config).compute_loss(batch, {"logits": outputs["logits"] * scale})
            assert lowest <= value <= highest + 1e-15


def test_focal_and_poly_end_at_a_certain_target_in_zero() -> None:
    for name, config in (("focal_ce", {}), ("poly1_ce", {}), ("dft", {}), ("nll", {})):
        assert at_logprob(name, 0.0, config)[0] == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", OF_LOGITS)
def test_a_masked_target_that_a_filter_ruled_out(name: str, dtype: torch.dtype) -> None:
    """Its log-probability is -inf, and -inf times a mask of 0 would be NaN; its neighbours in the row are ordinary."""
    batch, outputs = case(69, source="logits", dtype=dtype)
    expected = value_and_gradient(name, batch, outputs, "logits")
    masked = (batch["token_mask"][:, 1:] * batch["sample_mask"][:, None]) == 0
    target = torch.nn.functional.one_hot(batch["input_ids"][:, 1:], 5).bool() & masked[..., None]
    filtered = outputs["logits"].clone()
    filtered[:, :-1] = filtered[:, :-1].masked_fill(target, -math.inf)
    value, gradient = value_and_gradient(name, batch, {"logits": filtered}, "logits")
    assert target.any()
    assert torch.equal(value, expected[0])
    assert torch.equal(gradient, expected[1])


@pytest.mark.parametrize("name", OF_LOGITS)
def test_bfloat16_logits_are_normalised_in_float32(name: str) -> None:
    """log 61 = 4.111 of 61 equal logits; a softmax taken in bfloat16 makes it 4.125."""
    batch = {"input_ids": torch.zeros(1, 2, dtype=torch.long), "token_mask": torch.ones(1, 2)}
    outputs = {"logits": torch.full((1, 2, 61), 1.0, dtype=torch.bfloat16)}
    wide = {"logits": torch.full((1, 2, 61), 1.0, dtype=torch.float64)}
    value = registry.create(name).compute_loss(batch, outputs)
    assert value.dtype is torch.float32
    exact = registry.create(name).compute_loss(batch, wide)
    assert value.item() == pytest.approx(exact.item(), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("name", "config", "value"),
    [
        ("nll", {}, math.inf),
        *(("focal_ce", {"gamma": gamma}, math.inf) for gamma in (0.0, 0.5, 2.0)),
        ("focal_ce", {"gamma": 2.0, "detach_weight": True}, math.inf),
        ("poly1_ce", {}, math.inf),
        ("dft", {}, 0.0),
    ],
    ids=str,
)
def test_a_target_that_cannot_be(name: str, config: Config, value: float, dtype: torch.dtype) -> None:
    """Its cross entropy is infinite, with slope -1; its part of DFT is p log p = 0. Nothing is 0 times inf."""
    slope = -1.0 if value else 0.0
    assert at_logprob(name, -math.inf, config, dtype=dtype) == (value, slope)
    assert at_logprob(name, -1e4, config, dtype=dtype)[1] == slope
    got, gradient = at_logits(name, [-math.inf, 0.0, 0.0], config, dtype=dtype)
    assert got == value
    assert gradient.tolist() == pytest.approx([slope, -slope / 2, -slope / 2])

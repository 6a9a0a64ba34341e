"""Label smoothing, the confidence penalty and the z-loss: losses of the whole distribution."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from loss_reference import ConfigError, registry
from tests.reference.cases import case, value_and_gradient
from tests.reference.supervised.one_position import at_logits

LOGITS = [1.0, -2.0, 0.5, 3.0, 0.0]


def test_label_smoothing_is_that_of_torch() -> None:
    for e in (0.0, 0.1, 1.0):
        expected = F.cross_entropy(torch.tensor([LOGITS]).double(), torch.tensor([2]), label_smoothing=e)
        assert at_logits("label_smoothed_ce", LOGITS, {"label_smoothing": e}, y=2)[0] == pytest.approx(expected.item())


@pytest.mark.parametrize(("spread", "kept", "share"), [("vocabulary", 0.76, 0.06), ("others", 0.7, 0.075)])
def test_minimum_is_the_entropy_of_the_smoothed_label(spread: str, kept: float, share: float) -> None:
    q = torch.tensor([kept, share, share, share, share], dtype=torch.float64)
    assert q.sum() == pytest.approx(1)
    value, gradient = at_logits("label_smoothed_ce", q.log().tolist(), {"label_smoothing": 0.3, "spread": spread})
    assert value == pytest.approx(-(q * q.log()).sum().item())
    assert gradient.abs().max() < 1e-15


@pytest.mark.parametrize(
    "config", [{"label_smoothing": 0.0}, *({"label_smoothing": 0.4, "spread": s} for s in ("vocabulary", "others"))]
)
def test_uniform_logits_give_log_v_whatever_the_smoothing(config: dict[str, Any]) -> None:
    assert at_logits("label_smoothed_ce", [2.0] * 5, config)[0] == pytest.approx(math.log(5))


def test_a_vocabulary_of_one_has_no_others() -> None:
    assert at_logits("label_smoothed_ce", [3.0], {"spread": "others"})[0] == 0


def test_the_penalty_is_the_entropy() -> None:
    p = torch.tensor(LOGITS).double().softmax(0)
    value, gradient = at_logits("confidence_penalty", LOGITS, {"coefficient": 0.7}, y=3)
    entropy = -(p * p.log()).sum()
    assert value == pytest.approx((-p[3].log() - 0.7 * entropy).item())
    expected = p - F.one_hot(torch.tensor(3), 5) + 0.7 * p * (p.log() + entropy)
    torch.testing.assert_close(gradient, expected)
    assert at_logits("confidence_penalty", [1.0] * 5, {"coefficient": 1.5})[0] == pytest.approx(-0.5 * math.log(5))


@pytest.mark.parametrize("logits", [[0.0, -math.inf, 1.0], [0.0, -1e4, 1.0], [1e4, -1e4, 0.0]])
def test_impossible_tokens_have_no_entropy(logits: list[float]) -> None:
    possible = [z for z in logits if z > -1e4]
    value, gradient = at_logits("confidence_penalty", logits, {"coefficient": 2.0}, dtype=torch.float32)
    assert torch.isfinite(gradient).all()
    assert value == pytest.approx(at_logits("confidence_penalty", possible, {"coefficient": 2.0})[0], rel=1e-6)


def test_a_token_that_cannot_be_chosen() -> None:
    logits = [0.0, -math.inf, 1.0]
    assert at_logits("label_smoothed_ce", logits)[0] == math.inf
    value, gradient = at_logits("label_smoothed_ce", logits, {"label_smoothing": 0.0})
    assert value == pytest.approx(math.log(1 + math.e))
    assert torch.isfinite(gradient).all()


def test_z_loss_by_hand() -> None:
    value, gradient = at_logits("z_loss", [math.log(2), math.log(3), 0.0], {"coefficient": 0.5})
    assert value == pytest.approx(0.5 * math.log(6) ** 2)
    torch.testing.assert_close(gradient, math.log(6) * torch.tensor([2, 3, 1]).double() / 6)
    assert at_logits("z_loss", [math.log(0.5)] * 2)[0] == pytest.approx(0, abs=1e-30)


def test_a_z_loss_of_weight_0_is_bound_by_every_law() -> None:
    assert set(registry.create("z_loss").contract.exempt) == {"logit_shift"}
    assert not registry.create("z_loss", {"coefficient": 0.0}).contract.exempt


@pytest.mark.parametrize("c", [-300.0, 300.0])
def test_only_the_z_loss_feels_a_shift(c: float) -> None:
    moved = [z + c for z in LOGITS]
    for name in ("label_smoothed_ce", "confidence_penalty"):
        assert at_logits(name, moved)[0] == pytest.approx(at_logits(name, LOGITS)[0], rel=1e-11)
    log_z = math.log(sum(math.exp(z) for z in LOGITS))
    assert at_logits("z_loss", moved, {"coefficient": 1.0})[0] == pytest.approx((log_z + c) ** 2)


def test_capped_logits() -> None:
    """They are within the cap, the smaller ones as they were; -inf is no more than -2, and a shift of all is felt."""
    capped = [2 * math.tanh(z / 2) for z in LOGITS]
    config = {"label_smoothing": 0.3, "softcap": 2.0}
    value, gradient = at_logits("label_smoothed_ce", LOGITS, config, y=3)
    plain, slope = at_logits("label_smoothed_ce", capped, {"label_smoothing": 0.3}, y=3)
    assert value == pytest.approx(plain)
    torch.testing.assert_close(gradient, slope * (1 - torch.tensor(capped, dtype=torch.float64).square() / 4))
    assert at_logits("z_loss", LOGITS, {"softcap": 2.0})[0] == pytest.approx(at_logits("z_loss", capped)[0])
    far = at_logits("label_smoothed_ce", LOGITS, config | {"softcap": 1e6}, y=3)[0]
    assert far == pytest.approx(at_logits("label_smoothed_ce", LOGITS, {"label_smoothing": 0.3}, y=3)[0])
    impossible, gradient = at_logits("label_smoothed_ce", [0.0, -math.inf, 1e4], config, dtype=torch.float32)
    assert impossible == pytest.approx(at_logits("label_smoothed_ce", [0.0, -2.0, 2.0], {"label_smoothing": 0.3})[0])
    assert gradient[1:].tolist() == [0, 0]
    moved = at_logits("label_smoothed_ce", [z + 1 for z in LOGITS], config, y=3)[0]
    assert moved != pytest.approx(value, rel=1e-3)
    loss = registry.create("label_smoothed_ce", config)
    assert set(loss.contract.exempt) == {"logit_shift", "impossible_tokens"}
    assert not registry.create("label_smoothed_ce").contract.exempt
    assert not loss.contract.options["label_smoothing"].reduces_to


@pytest.mark.parametrize("name", ["label_smoothed_ce", "confidence_penalty", "unlikelihood"])
def test_end_points_are_nll(name: str) -> None:
    config = {"label_smoothed_ce": "label_smoothing", "confidence_penalty": "coefficient", "unlikelihood": "alpha"}
    batch, outputs = case(3, source="logits")
    got = value_and_gradient(registry.create(name, {config[name]: 0.0}), batch, outputs, "logits")
    torch.testing.assert_close(got, value_and_gradient("nll", batch, outputs, "logits"), rtol=1e-14, atol=1e-16)


@pytest.mark.parametrize(
    ("name", "key", "value", "expected"),
    [
        ("label_smoothed_ce", "label_smoothing", 1.1, "a number at least 0 and at most 1"),
        ("label_smoothed_ce", "spread", "other", "one of 'vocabulary', 'others'; did you mean 'others'?"),
        ("confidence_penalty", "coefficient", -0.1, "a number at least 0"),
        ("z_loss", "coefficient", -1, "a number at least 0"),
        ("label_smoothed_ce", "softcap", 0.0, "a number above 0"),
        ("poly1_ce", "epsilon", -1.5, "a number at least -1"),
        ("focal_ce", "gamma", -1.0, "a number at least 0"),
        ("focal_ce", "alpha", 0.0, "a number above 0"),
        ("unlikelihood", "ngram", 1.5, "a whole number"),
        ("unlikelihood", "ngram", 0, "a number at least 1"),
        ("weighted_nll", "divisor", "token", "one of 'tokens', 'weights'; did you mean 'tokens'?"),
        ("mtp_ce", "head_weights", [1.0, -1.0], "a list of numbers, one per head, at least 0"),
        ("mtp_ce", "head_weights", [], "a list of numbers, one per head, at least 0"),
        ("dft", "gamma", 2.0, "aggregation, max_length"),
    ],
)
def test_config_errors(name: str, key: str, value: object, expected: str) -> None:
    with pytest.raises(ConfigError) as error:
        registry.create(name, {key: value})
    assert str(error.value).startswith(f"{registry.get(name).__name__}: ")
    assert key in str(error.value)
    assert f"expected {expected}" in str(error.value)

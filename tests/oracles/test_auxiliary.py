"""Router oracles against numbers worked out by hand."""

import math

import numpy as np
import pytest

from .auxiliary import moe_load_balance, router_z_loss
from .shared_rules import check_absence
from .test_oracles import LOG2, NAN, Data, Oracle, arr, near

LOG3 = math.log(3.0)


def routed(*tokens: tuple[float, ...]) -> Data:
    """One row, one layer, these tokens."""
    return {"router_logits": np.array(tokens)[None, :, None]}


def case(seed: int) -> tuple[Data, Data]:
    rng = np.random.default_rng(seed)
    batch: Data = {
        "attention_mask": (rng.random((3, 5)) < 0.7).astype(np.float64),
        "sample_mask": np.array([1.0, 0.5, 2.0]),
    }
    return batch, {"router_logits": rng.normal(size=(3, 5, 2, 4))}


def test_load_balance_by_hand() -> None:
    # Two experts, one chosen: probabilities (3/4, 1/4) twice and (1/4, 3/4) once; f = (2/3, 1/3), P = (7/12, 5/12).
    outputs = routed((LOG3, 0), (LOG3, 0), (0, LOG3))
    assert moe_load_balance({}, outputs, top_k=1) == near(2 * (14 + 5) / 36)
    assert moe_load_balance({}, outputs, top_k=1, coefficient=0.5) == near(19 / 36)
    # All chosen: E sum P.
    assert moe_load_balance({}, outputs, top_k=2) == near(2.0)
    assert moe_load_balance({}, outputs, top_k=2, normalize_by_k=True) == near(1.0)
    # The third token weighs nothing: f = (1, 0), P = (3/4, 1/4).
    masked: Data = {"attention_mask": arr([1, 1, 0])}
    outputs["router_logits"][0, 2] = NAN
    assert moe_load_balance(masked, outputs, top_k=1) == near(1.5)


def test_layers_are_pooled_by_hand() -> None:
    # The same three tokens, as rows of weight 1 and layers: row 0's layers are the first two, row 1's the third twice.
    pooled: Data = {"router_logits": arr([[(LOG3, 0), (LOG3, 0)]], [[(0, LOG3), (0, LOG3)]])}
    assert moe_load_balance({"sample_mask": np.array([1.0, 0.5])}, pooled, top_k=1) == near(2 * (14 + 5) / 36)
    # log(3 + 1) everywhere.
    assert router_z_loss({}, pooled) == near(4 * LOG2**2)


@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_uniform_router(top_k: int) -> None:
    outputs: Data = {"router_logits": np.zeros((2, 3, 2, 4))}
    assert moe_load_balance({}, outputs, top_k=top_k) == near(top_k)
    assert moe_load_balance({}, outputs, top_k=top_k, normalize_by_k=True) == near(1.0)
    # All onto one expert: E / k at most.
    outputs["router_logits"][..., 1] = 1e4
    assert moe_load_balance({}, outputs, top_k=top_k) == near(4.0)


def test_z_loss_by_hand() -> None:
    # logsumexp 2 log 2 and 0 (of log(1/2), log(1/2)).
    outputs = routed((LOG3, 0), (-LOG2, -LOG2))
    assert router_z_loss({}, outputs) == near(2 * LOG2**2)
    assert router_z_loss({"attention_mask": arr([1, 0])}, outputs, coefficient=0.25) == near(LOG2**2)
    assert router_z_loss({}, routed((-LOG2, -LOG2))) == near(0.0)
    assert router_z_loss({}, routed((1e4, 0))) == near(1e8)


@pytest.mark.parametrize("oracle", [moe_load_balance, router_z_loss])
def test_shared_rules(oracle: Oracle) -> None:
    batch, outputs = case(70)
    value = check_absence(oracle, batch, outputs)
    assert oracle(batch, outputs, coefficient=3.0) == near(3 * value)
    order = [2, 0, 1]
    permuted = {name: field[order] for name, field in batch.items()}
    assert oracle(permuted, {"router_logits": outputs["router_logits"][order]}) == near(value)
    # Experts and layers in another order.
    assert oracle(batch, {"router_logits": outputs["router_logits"][:, :, ::-1, ::-1]}) == near(value)
    assert oracle(batch | {"global_valid_toks": np.array(99.0)}, outputs) == value
    outputs["router_logits"][batch["attention_mask"] == 0.0] = NAN
    assert oracle(batch, outputs) == near(value)


def test_a_shift_of_the_logits() -> None:
    batch, outputs = case(71)
    shifted: Data = {"router_logits": outputs["router_logits"] + 5.0}
    assert moe_load_balance(batch, shifted) == near(moe_load_balance(batch, outputs))
    assert router_z_loss(batch, shifted) > router_z_loss(batch, outputs)

"""What a loss returns instead of a loss, in words."""

import pytest

from loss_conformance.verdict import Status
from tests.conformance.engine.misbehaving import (
    Detached,
    ReturnsInteger,
    ReturnsIntegerTensor,
    ReturnsNone,
    ReturnsTwo,
    TokenMean,
    got,
    quick_engine,
    verdicts,
)

A_LOSS = "a 0-dim floating-point tensor attached to the graph"


@pytest.mark.parametrize(
    ("loss", "returned"),
    [
        (ReturnsTwo, "a tensor of shape (2,)"),
        (ReturnsInteger, "int 3"),
        (ReturnsNone, "None"),
        (ReturnsIntegerTensor, "a tensor of torch.int64"),
    ],
)
def test_no_loss(loss: type, returned: str) -> None:
    assert got(loss, "scalar_output") == (Status.FAILED, returned, A_LOSS)


def test_a_detached_loss() -> None:
    assert got(Detached, "scalar_output") == (
        Status.FAILED,
        "a tensor detached from everything trainable",
        "a tensor attached to the graph",
    )


def test_a_loss() -> None:
    assert [v.status for v in verdicts(TokenMean, "scalar_output")] == [Status.PASSED]


def test_everything_else_is_blocked_by_it() -> None:
    engine = quick_engine(ReturnsNone)
    first, *others = engine.report().verdicts
    assert (first.check, first.status) == ("scalar_output", Status.FAILED)
    assert {(v.status, v.reason) for v in others} == {(Status.BLOCKED, "blocked by scalar_output")}
    assert not engine.report().conformant

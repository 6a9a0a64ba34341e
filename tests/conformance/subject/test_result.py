"""A loss and its metrics, out of whatever was returned."""

from collections import namedtuple
from types import SimpleNamespace

import torch

from loss_conformance.subject.result import result_of

LOSS = torch.tensor(1.0)


def test_what_is_understood():
    other = torch.tensor(2.0)
    assert result_of(LOSS) == (LOSS, {})
    assert result_of((LOSS, {"kl": 0.1})) == (LOSS, {"kl": 0.1})
    assert result_of((LOSS, other, None)) == (LOSS, {"result[1]": other})
    assert result_of({"loss": LOSS, "kl": 1}) == (LOSS, {"kl": 1})
    assert result_of(SimpleNamespace(loss=LOSS)) == (LOSS, {})
    named = namedtuple("named", "output loss")
    assert result_of(named(other, LOSS)) == (LOSS, {"output": other})


def test_what_is_not_comes_back_as_it_is():
    for odd in (None, 1.0, "loss", [LOSS], ("a", LOSS), (), {"kl": LOSS}):
        assert result_of(odd) == (odd, {})

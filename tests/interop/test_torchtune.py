"""torchtune 0.6: preference, PPO and distillation losses of tensors."""

import pytest

from tests.interop.released import failed, library, named

library("torchtune.rlhf.loss", "torchtune.modules.loss")
pytestmark = pytest.mark.filterwarnings("ignore")


@named(
    *(f"torchtune.rlhf.loss.{name}" for name in ("DPOLoss", "PPOLoss", "RSOLoss")),
    *(f"torchtune.modules.loss.{name}" for name in ("ForwardKLLoss", "ReverseKLLoss", "SymmetricKLLoss")),
)
def test_sound(name, config):
    assert failed(name, config) == set()

"""Released losses that gather over ranks: the right ones hold on two ranks, the known shortcuts are told as advice."""

import pytest

from loss_conformance import check_loss
from loss_conformance.verdict import Status
from tests.interop.released import library

library("lightly.loss", "open_clip.loss")


def _status(loss: str, config: dict) -> Status:
    return check_loss(loss, config=config, profile="quick", checks=("ranks",)).verdicts[0].status


@pytest.mark.parametrize(
    ("loss", "config"),
    [
        ("lightly.loss.NTXentLoss", {"gather_distributed": True}),
        ("lightly.loss.DCLLoss", {"gather_distributed": True}),
        ("lightly.loss.VICRegLoss", {"gather_distributed": True}),
        ("open_clip.loss.ClipLoss", {"gather_with_grad": True}),
        ("open_clip.loss.ClipLoss", {"gather_with_grad": True, "local_loss": True}),
        ("open_clip.loss.SigLipLoss", {"dist_impl": "bidir"}),
        ("open_clip.loss.SigLipLoss", {"dist_impl": "gather"}),
        ("open_clip.loss.SigLipLoss", {"dist_impl": "reduce"}),
    ],
)
def test_holds_on_two_ranks(loss: str, config: dict) -> None:
    assert _status(loss, config) is Status.PASSED


@pytest.mark.parametrize("config", [{}, {"local_loss": True}])
def test_a_gather_without_gradient_is_told(config: dict) -> None:
    assert _status("open_clip.loss.ClipLoss", config) is Status.ADVICE

"""lightly 1.6, open_clip 3.3 and info-nce-pytorch: two views of a batch."""

import pytest

from tests.interop.released import alarming, failed, library, named

library("lightly.loss", "open_clip.loss", "info_nce")
pytestmark = pytest.mark.filterwarnings("ignore")


@named(
    *(f"lightly.loss.{name}" for name in ("BarlowTwinsLoss", "CAPILoss", "DCLLoss", "DCLWLoss", "DirectCLRLoss")),
    *(f"lightly.loss.{name}" for name in ("KoLeoLoss", "NTXentLoss", "NegativeCosineSimilarity", "VICRegLoss")),
    *("open_clip.loss.SigLipLoss", "info_nce.InfoNCE", "info_nce.info_nce"),
)
def test_sound(name, config):
    assert failed(name, config) == set()


@named("open_clip.loss.ClipLoss")
def test_sound_with_a_gradient_that_cancels(name, config):
    assert failed(name, config) == set()


@alarming("lightly.loss.TiCoLoss", reason="scalar_output: its state has the width of the first embeddings it saw")
def test_alarm_of_a_state(name, config):
    assert failed(name, config) == set()

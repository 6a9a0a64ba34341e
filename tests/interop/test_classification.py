"""timm 1.0, entmax 1.3, auraloss and piq: classification, sparse softmax, audio and image quality."""

import pytest

from tests.interop.released import advised, broken, failed, library, named

library("timm.loss", "entmax", "auraloss.time", "auraloss.freq", "piq")
pytestmark = pytest.mark.filterwarnings("ignore")


@named(
    *(f"timm.loss.{name}" for name in ("AsymmetricLossMultiLabel", "AsymmetricLossSingleLabel", "BinaryCrossEntropy")),
    *(f"timm.loss.{name}" for name in ("LabelSmoothingCrossEntropy", "PolyBinaryCrossEntropy", "PolyCrossEntropy")),
    *(f"timm.loss.{name}" for name in ("SoftTargetCrossEntropy", "TwoWayLoss", "ZlprLoss")),
    *(f"entmax.{name}" for name in ("Entmax15Loss", "EntmaxBisectLoss", "NormmaxBisectLoss", "SparsemaxBisectLoss")),
    *("entmax.SparsemaxLoss", "entmax.entmax15_loss", "entmax.sparsemax_loss"),
    *(f"auraloss.time.{name}" for name in ("DCLoss", "ESRLoss", "LogCoshLoss", "SDSDRLoss", "SISDRLoss", "SNRLoss")),
    *("piq.GMSDLoss", "piq.TVLoss", "piq.psnr"),
)
def test_sound(name, config):
    assert failed(name, config) == set()


# What a loss that declares nothing may mean: told, not failed.
@broken(
    # reduction="none" adds the scalar spectral convergence to every bin, so that it counts n times in the sum.
    ("auraloss.freq.STFTLoss", "reductions_agree"),
)
def test_doubt(name, config, checks):
    assert set(checks.split()) <= advised(name, config)

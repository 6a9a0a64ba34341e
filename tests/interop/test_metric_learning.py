"""pytorch-metric-learning 2.9: modules called with embeddings [B, D] and class ids [B]."""

import pytest

from tests.interop.released import advised, broken, failed, library, named

library("pytorch_metric_learning.losses")
pytestmark = pytest.mark.filterwarnings("ignore")

SIZES = {"num_classes": 3, "embedding_size": 4}


@named(
    *("AngularLoss", "CircleLoss", "ContrastiveLoss", "FastAPLoss", "GeneralizedLiftedStructureLoss"),
    *("IntraPairVarianceLoss", "LiftedStructureLoss", "MarginLoss", "MultiSimilarityLoss", "NTXentLoss", "PNPLoss"),
    *("SignalToNoiseRatioContrastiveLoss", "SupConLoss", "ThresholdConsistentMarginLoss", "TripletMarginLoss"),
    *("VICRegLoss", ("RankedListLoss", {"margin": 0.4, "Tn": 1.0})),
    *(("ArcFaceLoss", SIZES), ("CosFaceLoss", SIZES), ("LargeMarginSoftmaxLoss", SIZES), ("SoftTripleLoss", SIZES)),
    *(("NormalizedSoftmaxLoss", SIZES), ("ProxyAnchorLoss", SIZES), ("ProxyNCALoss", SIZES)),
    *(("SphereFaceLoss", SIZES), ("SubCenterArcFaceLoss", SIZES)),
    # Each call projects the weight onto the sphere again, which moves the eighth digit of the first values: no defect. A zero
    # vector gives nan (0 / 0), where the library's CosineSimilarity divides by no less than 1e-12; none is fed here.
    ("P2SGradLoss", {"descriptors_dim": 4, "num_classes": 3}),
)
def test_sound(name, config):
    assert failed(f"pytorch_metric_learning.losses.{name}", config) == set()


@broken(
    # No positive pair, labels [0, 1]: the mean over nothing, nan. The other losses of the library give 0 there.
    ("NCALoss", "finite_value"),
    # Two identical embeddings: their cosine rounds to 1.0000001, "index 101 is out of bounds for dimension 0 with size 101".
    ("HistogramLoss", "duplicate_rows"),
    # The same in acos(1.0000001): nan for one pair of identical embeddings in six, and a nan gradient for most others, since
    # acos falls infinitely steeply at 1. The angle is 0 there, and every formula of the paper is finite: a defect.
    ("TupletMarginLoss", "finite_value"),
    # A histogram of earlier batches, kept in a plain attribute with its graph: every call gives another value, and after one
    # call the loss can be neither copied nor pickled.
    ("DynamicSoftMarginLoss", "repeatable"),
)
def test_defect(name, config, checks):
    assert set(checks.split()) <= failed(f"pytorch_metric_learning.losses.{name}", config)


# What a loss that declares nothing may mean: told, not failed.
@broken(
    # cross_entropy(similarities [B, B], index of the label among all labels): the class is used as a row number, so rows
    # 0..3 of four classes give 0, and the same rows in the opposite order 54.7.
    ("InstanceLoss", "batch_permutation"),
)
def test_doubt(name, config, checks):
    assert set(checks.split()) <= advised(f"pytorch_metric_learning.losses.{name}", config)

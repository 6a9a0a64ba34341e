"""From the options as they were typed to an engine."""

from loss_conformance.opening import open_engine
from loss_conformance.run_options import RunOptions
from loss_conformance.verdict import Status


def test_a_reference_baseline_takes_the_settings_it_shares_with_the_loss() -> None:
    engine = open_engine("loss_reference.DPOLoss", RunOptions(config='{"beta": 0.3}', baseline="dpo", profile="quick"))
    assert engine.baseline is not None
    assert engine.baseline.loss.beta == 0.3
    assert engine.run("baseline_value").status is Status.PASSED

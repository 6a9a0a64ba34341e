"""From the options as they were typed to an engine."""

from loss_conformance.run_options import RunOptions
from loss_conformance.verdict import Status


def test_a_reference_baseline_takes_the_settings_it_shares_with_the_loss() -> None:
    engine = RunOptions(config='{"beta": 0.3}', baseline="dpo", profile="quick").engine("loss_reference.DPOLoss")
    assert engine.baseline is not None
    assert engine.baseline.loss.beta == 0.3
    assert engine.run("baseline_value").status is Status.PASSED

"""Whether a loss stops gradients itself: what it detaches, or computes without a graph, it may mean to be constant."""

from __future__ import annotations

from loss_conformance.checks.watched_calls import calls_of
from loss_conformance.trial import Trial

__all__ = ["stops_gradients"]


def stops_gradients(trial: Trial) -> bool:
    """Return whether the loss detaches something that depends on what is trained, or computes with it under ``no_grad``."""
    return any(call.trained and (call.name == "detach" or not call.recorded) for call in calls_of(trial, trial.case))

"""The laws, one family per file. Importing this package registers all of them, in the order they run."""

from loss_conformance.checks import (
    interface,
    finite,
    extreme,
    gradient_flow,
    finite_difference,
    masking,
    padding,
    reduction,
    symmetry,
    positivity,
    direction,
    options,
    stability,
    training,
    baseline,
    device_parity,
)  # isort: skip - a check is registered after its prerequisites

__all__ = [
    "baseline",
    "device_parity",
    "direction",
    "extreme",
    "finite",
    "finite_difference",
    "gradient_flow",
    "interface",
    "masking",
    "options",
    "padding",
    "positivity",
    "reduction",
    "stability",
    "symmetry",
    "training",
]

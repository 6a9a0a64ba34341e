"""Every planted fault, by id."""

from __future__ import annotations

from typing import Final

from tests.faults import (
    aggregation,
    anchors,
    answers,
    axes,
    blind,
    bounds,
    costs,
    direction,
    empty,
    finite,
    gradient,
    interface,
    masked_terms,
    masking,
    matching,
    metrics,
    named,
    options,
    precision,
    process,
    ranks,
    reached,
    reduction,
    routes,
    sides,
    stability,
    terms,
    thresholds,
)
from tests.faults.fault import by_id

MODULES: Final = (
    interface,
    finite,
    empty,
    gradient,
    reached,
    routes,
    masking,
    masked_terms,
    axes,
    reduction,
    aggregation,
    terms,
    thresholds,
    bounds,
    direction,
    sides,
    answers,
    anchors,
    matching,
    options,
    process,
    metrics,
    costs,
    stability,
    precision,
    ranks,
    blind,
    named,
)
FAULTS: Final = by_id(fault for module in MODULES for fault in module.FAULTS)

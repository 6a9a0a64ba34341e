"""Every planted fault, by id."""

from __future__ import annotations

from typing import Final

from tests.faults import (
    aggregation,
    anchors,
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

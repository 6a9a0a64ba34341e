"""The laws, one family per file. Importing this package registers all of them, prerequisites first."""

from importlib import import_module
from typing import Final

IN_ORDER: Final = (
    "interface",
    "left_running",
    "strides",
    "bad_inputs",
    "finite",
    "extreme",
    "gradient_flow",
    "reached",
    "finite_difference",
    "continuity",
    "masking",
    "padding",
    "reduction",
    "length",
    "reductions_agree",
    "row_weight",
    "terms",
    "divisors",
    "defaults",
    "ranks",
    "symmetry",
    "pairing",
    "rotation",
    "impossible",
    "shifts",
    "positivity",
    "rest",
    "direction",
    "opposites",
    "declared_direction",
    "policy_signs",
    "pulls",
    "on_policy",
    "options",
    "option_end_points",
    "inputs",
    "stability",
    "half_precision",
    "autocast",
    "many_terms",
    "training",
    "baseline",
    "namesake",
    "device_parity",
    "compilation",
    "vectorization",
    "metrics",
    "memory",
)
"""The files of this folder in which laws are registered; a law comes after what it requires."""

for _file in IN_ORDER:
    import_module(f"{__name__}.{_file}")

"""The laws, one family per file. Importing this package registers all of them, prerequisites first."""

from importlib import import_module
from typing import Final

IN_ORDER: Final = (
    "interface",
    "finite",
    "extreme",
    "gradient_flow",
    "finite_difference",
    "masking",
    "padding",
    "reduction",
    "symmetry",
    "positivity",
    "direction",
    "options",
    "stability",
    "training",
    "baseline",
    "device_parity",
)
"""The files of this folder in which laws are registered; a law comes after what it requires."""

for _file in IN_ORDER:
    import_module(f"{__name__}.{_file}")

"""Whether a loss asks torch.distributed for anything."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any, Final

import torch.distributed

__all__ = ["COLLECTIVES", "distributed_calls"]

FOLDER: Final = os.path.dirname(torch.distributed.__file__) + os.sep
COLLECTIVES: Final = (
    "all_gather",
    "all_gather_into_tensor",
    "all_gather_object",
    "all_gather_single",
    "all_gather_tensor",
    "all_reduce",
    "all_to_all",
    "all_to_all_single",
    "batch_isend_irecv",
    "broadcast",
    "broadcast_object_list",
    "gather",
    "gather_object",
    "irecv",
    "isend",
    "recv",
    "reduce",
    "reduce_scatter",
    "reduce_scatter_single",
    "reduce_scatter_tensor",
    "scatter",
    "send",
)
"""Functions of torch.distributed through which ranks learn of each other's numbers."""


@contextlib.contextmanager
def distributed_calls() -> Iterator[set[str]]:
    """Collect the names of the functions of torch.distributed that are called in this thread, however they are imported."""
    names: set[str] = set()

    def note(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(FOLDER):
            names.add(frame.f_code.co_name)

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        yield names
    finally:
        sys.setprofile(before)

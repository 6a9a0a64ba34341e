"""What a loss keeps for its backward pass: how many bytes, and for how long."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any, Final

from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

__all__ = ["bytes_saved", "graphs_kept"]

CALLS: Final = 3


class _Saved:
    """One saved tensor; it lives as long as the graph that saved it."""

    def __init__(self, tensor: Tensor) -> None:
        # Detached: a saved result that held its own graph would keep itself alive for ever.
        self.tensor = tensor.detach()


def bytes_saved(call: Callable[[], Any], inputs: list[Tensor]) -> int:
    """Return how many bytes the graph made by ``call`` keeps, storage shared with ``inputs`` left out, each once."""
    given = {tensor.untyped_storage().data_ptr() for tensor in inputs}
    found: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        result = call()
    del result
    return sum(size for pointer, size in found.items() if pointer not in given)


def graphs_kept(call: Callable[[], Any]) -> list[bool]:
    """Call ``CALLS`` times, drop each result, and return which of the graphs are still alive in the end."""
    saved: list[list[weakref.ref[_Saved]]] = []
    for _ in range(CALLS):
        ours: list[weakref.ref[_Saved]] = []

        def keep(tensor: Tensor, ours: list[weakref.ref[_Saved]] = ours) -> _Saved:
            handle = _Saved(tensor)
            ours.append(weakref.ref(handle))
            return handle

        with saved_tensors_hooks(keep, lambda handle: handle.tensor):
            result = call()
        del result
        saved.append(ours)
    if any(_alive(saved)):
        gc.collect()  # a cycle of Python objects holds a graph without keeping it
    return _alive(saved)


def _alive(saved: list[list[weakref.ref[_Saved]]]) -> list[bool]:
    return [any(handle() is not None for handle in ours) for ours in saved]

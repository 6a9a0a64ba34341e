"""A mapping that remembers which of its fields were read, and how."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from loss_reference.interface import ModelOutputs

__all__ = ["UnknownFieldRead", "WatchedMapping"]


class UnknownFieldRead(KeyError):
    """The loss asked for a field that is neither in the vocabulary nor declared."""

    def __init__(self, place: str, field: str) -> None:
        super().__init__(f"{place} has no {field!r}")
        self.place, self.field = place, field


# A user's traceback ends with what a plain dict would have raised.
UnknownFieldRead.__name__ = UnknownFieldRead.__qualname__ = "KeyError"
UnknownFieldRead.__module__ = "builtins"


class WatchedMapping(ModelOutputs):
    """A dict that records reads: ``required`` through ``[...]``, ``optional`` through ``get`` and ``in``."""

    _place: str
    _required: dict[str, bool]
    _optional: dict[str, bool]
    _missed: dict[str, bool]

    def __init__(self, place: str, tensors: dict[str, Tensor]) -> None:
        super().__init__(tensors)
        # Not attributes of the mapping as a loss sees it: attribute reads are field reads.
        object.__setattr__(self, "_place", place)
        object.__setattr__(self, "_required", {})
        object.__setattr__(self, "_optional", {})
        object.__setattr__(self, "_missed", {})

    def __getitem__(self, field: str) -> Tensor:
        if field not in self.keys():
            self._missed[field] = True
            raise UnknownFieldRead(self._place, field)
        self._required[field] = True
        return super().__getitem__(field)

    def __getattr__(self, field: str) -> Tensor:
        if field.startswith("__") or field not in self.keys():
            self._missed[field] = True
            raise AttributeError(f"{self._place} has no {field!r}")
        return self[field]

    def get(self, field: str, default: Any = None) -> Any:
        self._optional[field] = True
        if field not in self.keys():
            self._missed.setdefault(field, False)
            return default
        return super().__getitem__(field)

    def __contains__(self, field: object) -> bool:
        self._optional[str(field)] = True
        if field not in self.keys():
            self._missed.setdefault(str(field), False)
        return field in self.keys()

    @property
    def reads(self) -> dict[str, bool]:
        """Fields read, in the order of their first read, each with whether the loss can do without it.

        A field that is tested for first and then taken with ``[...]`` is optional.
        """
        return {field: optional for field, optional in self.asked.items() if field in self.keys()}

    @property
    def missed(self) -> dict[str, bool]:
        """Fields asked for that are not there, in that order, each with whether the loss cannot do without it."""
        return dict(self._missed)

    @property
    def place(self) -> str:
        """The name of the mapping, as the loss's author writes it."""
        return self._place

    @property
    def asked(self) -> dict[str, bool]:
        """The same for every field asked for, given or not."""
        order = {**self._required, **self._optional}
        return {field: field in self._optional for field in order}

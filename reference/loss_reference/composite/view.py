"""A view through which a part of a composite reads the shared batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

__all__ = ["ReadOnlyView"]


class ReadOnlyView(Mapping[str, Tensor]):
    """A mapping that can be read, by key or by attribute, and not written: one part cannot change what the next one reads.

    Each way of asking is passed on as it is asked, so that a mapping that records its readers still sees whether a field
    was required (``[...]``) or optional (``get``, ``in``).
    """

    def __init__(self, fields: Mapping[str, Tensor]) -> None:
        self._fields = fields

    def __getitem__(self, name: str) -> Tensor:
        return self._fields[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def __contains__(self, name: object) -> bool:
        return name in self._fields

    def get(self, name: str, default: Any = None) -> Any:
        """Return the field, or ``default`` when there is none."""
        return self._fields.get(name, default)

    def __getattr__(self, name: str) -> Tensor:
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            return self._fields[name]
        except KeyError:
            raise AttributeError(f"there is no {name!r}; there are: {', '.join(self._fields) or 'none'}") from None

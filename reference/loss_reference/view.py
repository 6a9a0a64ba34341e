"""A mapping of tensors seen through something: read-only, and each field as a subclass shows it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

__all__ = ["ReadOnlyView"]

_ABSENT: Final = object()


class ReadOnlyView(Mapping[str, Any]):
    """A mapping that can be read, by key or by attribute, and not written: one reader cannot change what the next one reads.

    Each way of asking is passed on as it is asked, so that a mapping that records its readers still sees whether a field
    was required (``[...]``) or optional (``get``, ``in``). A subclass that shows fields otherwise overrides ``_shown``.
    """

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self._fields = fields

    def _shown(self, _name: str, field: Any, /) -> Any:
        return field

    def __getitem__(self, name: str) -> Any:
        return self._shown(name, self._fields[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def __contains__(self, name: object) -> bool:
        return name in self._fields

    def get(self, name: str, default: Any = None) -> Any:
        """Return the field, or ``default`` when there is none."""
        field = self._fields.get(name, _ABSENT)
        return default if field is _ABSENT else self._shown(name, field)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"there is no {name!r}; there are: {', '.join(self._fields) or 'none'}") from None

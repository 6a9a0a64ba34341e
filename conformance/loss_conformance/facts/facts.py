"""A contract with every fact filled in, and where each came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

from loss_reference.contract import Contract

__all__ = ["INHERITABLE", "Facts", "gather"]

INHERITABLE: Final = tuple(f.name for f in fields(Contract) if f.name != "baseline")
"""Facts a subclass takes over from its parent. Not the baseline: a subclass is there to compute something else."""

_MERGED: Final = ("direction", "options", "fields", "exempt")


@dataclass(frozen=True)
class Facts:
    """A contract, and for each fact that was settled, where it comes from.

    Attributes:
        contract: the facts themselves; those nobody settled have their defaults.
        origin: fact name to ``"declared"``, ``"inherited from X"`` or ``"inferred: why"``.
    """

    contract: Contract
    origin: Mapping[str, str]

    def promised(self, fact: str) -> bool:
        """Return whether the fact was declared or inherited, rather than guessed or left open."""
        return not self.origin.get(fact, "inferred").startswith("inferred")

    @property
    def any_promised(self) -> bool:
        """Whether somebody declared anything at all about this loss."""
        return any(self.promised(fact) for fact in self.origin)

    def lines(self) -> tuple[str, ...]:
        """Return ``name = value (origin)`` for every settled fact."""
        return tuple(f"{name} = {_shown(getattr(self.contract, name))} ({why})" for name, why in self.origin.items())


def gather(sources: list[tuple[str, Contract]], inferred: Mapping[str, tuple[Any, str]]) -> Facts:
    """Merge contracts, strongest first, then fill the gaps with what was inferred.

    Args:
        sources: pairs of origin (``"declared"``, ``"inherited from X"``) and contract.
        inferred: fact name to (value, why).
    """
    values: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for where, contract in sources:
        for fact in fields(Contract):
            name = fact.name
            if not contract.declares(name) or (where != "declared" and name not in INHERITABLE):
                continue
            value = getattr(contract, name)
            if name in _MERGED:
                values[name] = {**value, **values.get(name, {})}
                origin.setdefault(name, where)
            elif name not in values:
                values[name], origin[name] = value, where
    for name, (value, why) in inferred.items():
        if name not in values:
            values[name], origin[name] = value, f"inferred: {why}"
    return Facts(Contract(**values), origin)


def _shown(value: Any) -> str:
    return "{" + ", ".join(map(str, value)) + "}" if isinstance(value, Mapping) else repr(value)

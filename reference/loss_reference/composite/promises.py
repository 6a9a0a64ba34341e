"""What a composite promises, worked out from what its parts promise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any, Final

from loss_reference.contract import Contract
from loss_reference.interface import LossFunction

__all__ = ["Parts", "contract_of", "overrides", "promises_of_sum", "refined"]

Parts = Sequence[tuple[float, Contract]]

SHARED_WORDS: Final = ("normalizer", "length_normalized")
FLAGS: Final = ("stochastic", "stateful", "surrogate_gradient", "coupled")
OF_OWN_SETTINGS: Final = ("option_effect",)  # a sum has other settings than its parts


def promises_of_sum(parts: Parts) -> dict[str, Any]:
    """Return the facts that hold of sum_i w_i L_i, given (w_i, contract of L_i).

    A word (level, normalizer, ...) and a direction hold when every part has them; one part over pairs makes the rows of
    the sum come in pairs. A bound is the weighted sum of the parts' bounds, lower and upper swapped under a negative
    weight. One part that is coupled, stochastic, stateful or has surrogate gradients makes the sum so. A law that one
    part breaks the sum may break, but for laws about the settings of a loss. What the parts leave open stays open.
    """
    contracts = [contract for weight, contract in parts if weight != 0]
    levels = [contract.level for contract in contracts]
    facts: dict[str, Any] = {
        **{word: _shared([getattr(contract, word) for contract in contracts]) for word in SHARED_WORDS},
        "level": "pair" if "pair" in levels else _shared(levels),
        **{flag: True for flag in FLAGS if any(getattr(contract, flag) for contract in contracts)},
        "lower_bound": _sum_of_bounds(parts, "lower_bound", "upper_bound"),
        "upper_bound": _sum_of_bounds(parts, "upper_bound", "lower_bound"),
        "direction": _shared_directions(parts),
        "fields": {name: field for contract in contracts for name, field in contract.fields.items()},
        "exempt": {
            check: reason
            for contract in contracts
            for check, reason in contract.exempt.items()
            if check not in OF_OWN_SETTINGS
        },
        "empty": next((contract.empty for contract in contracts if contract.empty != "zero"), None),
    }
    return {fact: value for fact, value in facts.items() if value is not None and value != {}}


def contract_of(loss: object) -> Contract:
    """Return the contract of a loss; one that is registered without any leaves every fact open."""
    contract = getattr(loss, "contract", None)
    return contract if isinstance(contract, Contract) else Contract()


def refined(contract: Contract, **changes: Any) -> Contract:
    """Return ``contract`` with ``changes`` to what it declares; what both leave open stays open."""
    declared = {fact.name: getattr(contract, fact.name) for fact in fields(contract) if contract.declares(fact.name)}
    return Contract(**{**declared, **changes})


def overrides(loss: LossFunction, cls: type[LossFunction], *methods: str) -> bool:
    """Return whether the class of ``loss`` has its own contract, or its own version of these methods of ``cls``."""
    members: Iterable[str] = ("contract", "compute_loss", *methods)
    return any(getattr(type(loss), member) is not getattr(cls, member) for member in members)


def _shared(words: Sequence[Any]) -> Any:
    return words[0] if words and all(word == words[0] for word in words) else None


def _sum_of_bounds(parts: Parts, bound: str, opposite: str) -> float | None:
    total = 0.0
    for weight, contract in parts:
        value = getattr(contract, bound if weight > 0 else opposite)
        if weight != 0 and value is None:
            return None
        total += weight * value if weight != 0 else 0.0
    return total


def _shared_directions(parts: Parts) -> Mapping[str, int]:
    signed = [{name: sign if w > 0 else -sign for name, sign in c.direction.items()} for w, c in parts if w != 0]
    return {name: sign for name, sign in signed[0].items() if all(other.get(name) == sign for other in signed)}

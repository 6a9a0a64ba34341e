"""Where the contract of a loss can be written down, strongest first."""

from __future__ import annotations

from dataclasses import fields

from loss_conformance.facts.facts import gather
from loss_conformance.subject.subject import Subject
from loss_conformance.subject.torch_losses import contract_of_torch_loss
from loss_reference.contract import Contract

__all__ = ["contract_sources", "declared_contract"]


def contract_sources(subject: Subject) -> list[tuple[str, Contract]]:
    """Return (origin, contract) for every contract that speaks about this loss.

    The order is: one given beside the loss, the instance's own, the class's own, then each parent's, then what is known
    of a ``torch.nn`` loss. An instance that declares all a class does speaks in its place, and may take entries back.
    """
    loss = subject.loss
    sources: list[tuple[str, Contract]] = []
    if subject.contract is not None:
        sources.append(("declared", subject.contract))
    own = getattr(loss, "__dict__", {}).get("contract")
    if isinstance(own, Contract):
        sources.append(("declared", own))
    classes = type(loss).__mro__ if not isinstance(loss, type) else loss.__mro__
    for position, cls in enumerate(classes):
        contract = vars(cls).get("contract")
        if isinstance(contract, Contract) and not _replaces(own, contract):
            sources.append(("declared" if position == 0 else f"inherited from {cls.__name__}", contract))
    known = contract_of_torch_loss(loss)
    if known is not None:
        sources.append((f"known of torch.nn.{type(loss).__name__}", known))
    return sources


def _replaces(own: object, contract: Contract) -> bool:
    declared = [fact.name for fact in fields(Contract) if contract.declares(fact.name)]
    return isinstance(own, Contract) and bool(declared) and all(map(own.declares, declared))


def declared_contract(subject: Subject) -> Contract:
    """Return the contract to find inputs with: every declared fact merged, nothing inferred."""
    return gather(contract_sources(subject), {}).contract

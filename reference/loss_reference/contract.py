"""What a loss promises about itself: the facts that decide which laws apply to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Final

from loss_reference.names import nearest_name

__all__ = ["FAMILIES", "LEVELS", "NORMALIZERS", "ROLES", "Contract", "ContractError", "Field", "Option"]

FAMILIES: Final = (
    "supervised",
    "preference",
    "policy_gradient",
    "value",
    "reward",
    "distillation",
    "contrastive",
    "auxiliary",
    "composite",
)
LEVELS: Final = ("token", "sequence", "pair", "sample")
NORMALIZERS: Final = ("global", "local", "sum")
EMPTY_POLICIES: Final = ("zero", "nan", "error")
OUTPUTS: Final = ("scalar", "terms")
ROLES: Final = (
    "token_ids",
    "mask",
    "lengths",
    "logits",
    "logprobs",
    "probabilities",
    "values",
    "rewards",
    "advantages",
    "labels",
    "embeddings",
    "pairs",
    "weights",
    "count",
    "scalar",
)


class ContractError(ValueError):
    """A contract, or one of its fields or options, says something that cannot be meant."""


def _require_known(what: str, given: str | None, allowed: tuple[str, ...]) -> None:
    if given is not None and given not in allowed:
        raise ContractError(
            f"{what}={given!r} is not known; expected one of {', '.join(map(repr, allowed))}{nearest_name(given, allowed)}"
        )


@dataclass(frozen=True)
class Field:
    """An input outside the batch vocabulary: what it means and how large it is.

    Args:
        role: what the numbers are; one of ``ROLES``.
        shape: letters and digits separated by spaces. A known letter (B, S, V, K, D, N) has the size it has
            everywhere else, a new letter is a new size, digits fix a size, ``""`` is a scalar.
        trainable: whether it receives gradient. ``None`` follows the mapping it arrives in (``model_outputs``
            is trainable, ``batch`` is constant), and the role for modules and functions.
        speaks_of: which token entry t along S is about: ``"itself"``, ``"next"`` (t + 1) or ``"later"`` (any after t, as
            of several prediction heads). ``None`` follows the vocabulary; outside it the logits of a module or function
            are aligned as it is seen to align them, a [B, S] field of ``compute_loss`` as the loss slices it, and
            everything else speaks of ``"itself"``.

    Raises:
        ContractError: an unknown role, or a shape that is not letters and digits.
    """

    role: str
    shape: str
    trainable: bool | None = None
    speaks_of: str | None = None

    def __post_init__(self) -> None:
        _require_known("Field.role", self.role, ROLES)
        _require_known("Field.speaks_of", self.speaks_of, ("itself", "next", "later"))
        for letter in self.shape.split():
            if not letter.removesuffix("-1").isalnum():
                raise ContractError(
                    f"Field.shape={self.shape!r}: {letter!r} is neither a letter nor a number; write it like 'B S' or 'B 4'"
                )


@dataclass(frozen=True)
class Option:
    """A constructor setting the checks may vary.

    Args:
        values: legal values to try, the interesting ones: end points and the default.
        reduces_to: option value to the registered name of the loss it must then equal.
        inert: the option is known to change neither value nor gradient.
    """

    values: tuple[Any, ...] = ()
    reduces_to: Mapping[Any, str] = field(default_factory=dict)
    inert: bool = False


@dataclass(frozen=True)
class Contract:
    """What a loss promises. Every fact is optional: a missing one is inherited from the parent loss, then inferred.

    Args:
        family: the group of losses whose laws apply; one of ``FAMILIES``.
        baseline: registered name of the reference loss whose value and gradient it must equal.
        level: what one term of the mean is: ``"token"``, ``"sequence"``, ``"pair"`` or ``"sample"``.
        group_size: how many neighbouring rows one term compares, such as K answers to one prompt; 2 where level is
            ``"pair"`` and nothing is said.
        normalizer: ``"global"`` (divides by ``global_valid_*`` when given), ``"local"`` or ``"sum"``.
        length_normalized: repeating every token leaves the loss unchanged.
        lower_bound: no legal input gives less. ``-inf`` says that there is none.
        upper_bound: no legal input gives more. ``inf`` says that there is none.
        empty: what an all-masked batch gives: ``"zero"``, ``"nan"`` or ``"error"``.
        output: ``"scalar"``, or ``"terms"`` for one value per term that the caller reduces.
        stochastic: two calls on the same input may differ.
        stateful: a call may change the next call's value.
        surrogate_gradient: stop-gradients on purpose; the gradient is not that of the returned value.
        coupled: a term depends on other rows, so neither row independence nor microbatch additivity holds.
        direction: field or option name to ``-1`` (the loss falls as it rises) or ``+1`` (rises).
        options: constructor settings by name.
        fields: inputs outside the batch vocabulary, by name.
        exempt: check name to the reason why the loss breaks that law on purpose.

    Raises:
        ContractError: an unknown word, bounds that cross, a direction that is not +1 or -1, an exemption without reason.
    """

    family: str | None = None
    baseline: str | None = None
    level: str | None = None
    group_size: int | None = None
    normalizer: str | None = None
    length_normalized: bool | None = None
    lower_bound: float | None = None
    upper_bound: float | None = None
    empty: str = "zero"
    output: str = "scalar"
    stochastic: bool = False
    stateful: bool = False
    surrogate_gradient: bool = False
    coupled: bool = False
    direction: Mapping[str, int] = field(default_factory=dict)
    options: Mapping[str, Option] = field(default_factory=dict)
    fields: Mapping[str, Field] = field(default_factory=dict)
    exempt: Mapping[str, str] = field(default_factory=dict)

    if not TYPE_CHECKING:

        def __new__(cls, *positional: Any, **named: Any) -> Contract:
            # Which facts were written down: a written "zero" is a promise, the default "zero" is not.
            contract = super().__new__(cls)
            in_order = [fact.name for fact in fields(cls)]
            given = {**dict(zip(in_order, positional, strict=False)), **named}
            object.__setattr__(
                contract, "_declared", frozenset(name for name, value in given.items() if value is not None)
            )
            return contract

    def declares(self, fact: str) -> bool:
        """Return whether ``fact`` was written down when the contract was made, rather than left to its default."""
        return fact in self.__dict__["_declared"]

    def __post_init__(self) -> None:
        _require_known("Contract.family", self.family, FAMILIES)
        _require_known("Contract.level", self.level, LEVELS)
        _require_known("Contract.normalizer", self.normalizer, NORMALIZERS)
        _require_known("Contract.empty", self.empty, EMPTY_POLICIES)
        _require_known("Contract.output", self.output, OUTPUTS)
        if self.group_size is not None and (type(self.group_size) is not int or self.group_size < 1):
            raise ContractError(f"group_size={self.group_size!r}; expected how many rows belong together, 1 or more")
        if self.lower_bound is not None and self.upper_bound is not None and self.lower_bound > self.upper_bound:
            raise ContractError(f"lower_bound={self.lower_bound} is above upper_bound={self.upper_bound}")
        for name, sign in self.direction.items():
            if sign not in (-1, 1):
                raise ContractError(f"direction[{name!r}]={sign!r}; expected +1 (the loss rises with it) or -1 (falls)")
        for name, reason in self.exempt.items():
            if not reason or not reason.strip():
                raise ContractError(f"exempt[{name!r}] needs a reason: say why the loss breaks this law on purpose")

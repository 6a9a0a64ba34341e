"""The table of checks: one decorator, validated when the check is defined."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from loss_conformance.extensions import load_extensions, provider
from loss_conformance.profile import profile_named
from loss_reference.names import nearest_name

if TYPE_CHECKING:
    from loss_conformance.trial import Trial

__all__ = ["GROUPS", "Check", "CheckDefinitionError", "Cost", "Severity", "check", "every_check", "select_checks"]

GROUPS: Final = (
    "interface",
    "finite",
    "gradient_flow",
    "masking",
    "reduction",
    "symmetry",
    "positivity",
    "direction",
    "options",
    "stability",
    "baseline",
    "device_parity",
    "compile",
    "metrics",
    "cost",
)


class Severity(StrEnum):
    """Whether a broken law fails the run."""

    MUST = "must"
    ADVICE = "advice"


class Cost(StrEnum):
    """The cheapest profile a check belongs to."""

    QUICK = "quick"
    STANDARD = "standard"
    THOROUGH = "thorough"


class CheckDefinitionError(TypeError):
    """A check was registered with something missing or unknown."""


@dataclass(frozen=True)
class Check:
    """One law, as the table lists it.

    Attributes:
        name: what users type after ``-k``.
        group: one of ``GROUPS``.
        statement: the law in one line.
        over: the input situations it is tried on.
        severity: MUST fails the run.
        cost: the cheapest profile it belongs to.
        why: why it matters.
        cause: the likeliest cause when it fails.
        fix: how to repair the loss.
        seen_in: a public bug it would have caught.
        applies: given a trial, why the law does not apply, or ``None`` when it does.
        requires: checks that must hold first; when one fails this one is blocked.
        own_batch: it only transforms a batch, so it can be tried on one of the user's own.
        most_cases: cases per situation it is tried on at most, 0 for as many as the profile has: for expensive
            laws, which are not tried on smaller cases either once they fail.
        origin: where it comes from: the distribution that brought it, if it is not this one, and its module.
        law: the function; returns when the law holds, raises ``Broken`` when not.
    """

    name: str
    group: str
    statement: str
    over: tuple[str, ...]
    severity: Severity
    cost: Cost
    why: str
    cause: str
    fix: str
    seen_in: str
    applies: Callable[[Trial], str | None]
    requires: tuple[str, ...]
    own_batch: bool
    most_cases: int
    origin: str
    law: Callable[[Trial], None]

    def belongs_to(self, profile: str) -> bool:
        """Return whether a run of this profile includes the check."""
        return profile_named(profile).includes(self.cost.value)


_checks: dict[str, Check] = {}


def check(
    *,
    group: str,
    statement: str,
    why: str,
    fix: str,
    over: tuple[str, ...] = ("typical",),
    cause: str = "",
    seen_in: str = "",
    severity: Severity = Severity.MUST,
    cost: Cost = Cost.QUICK,
    applies: Callable[[Trial], str | None] = lambda trial: None,
    requires: tuple[str, ...] = ("scalar_output",),
    own_batch: bool = False,
    most_cases: int = 0,
    name: str = "",
) -> Callable[[Callable[[Trial], None]], Callable[[Trial], None]]:
    """Register the decorated law as a check named like the function.

    Raises:
        CheckDefinitionError: unknown group, situation or prerequisite, an empty text, a taken name.
    """

    def decorator(law: Callable[[Trial], None]) -> Callable[[Trial], None]:
        own_name = name or law.__name__
        origin = f"{provider()} ({law.__module__})" if provider() else law.__module__
        _validate(own_name, origin, group, over, {"statement": statement, "why": why, "fix": fix}, requires)
        law.__doc__ = f"{statement}\n\nWhy: {why}\nFix: {fix}"
        needed = tuple(required for required in requires if required != own_name)
        _checks[own_name] = Check(
            name=own_name,
            group=group,
            statement=statement,
            over=over,
            severity=severity,
            cost=cost,
            why=why,
            cause=cause,
            fix=fix,
            seen_in=seen_in,
            applies=applies,
            requires=needed,
            own_batch=own_batch,
            most_cases=most_cases,
            origin=origin,
            law=law,
        )
        return law

    return decorator


def every_check() -> list[Check]:
    """Return all checks in the order they run: by group, prerequisites first.

    Raises:
        BrokenExtension: checks of another distribution cannot be loaded.
    """
    import loss_conformance.checks  # noqa: F401 - its import registers the checks

    load_extensions(_checks)
    # Sorting is stable: within a group they stay as they were registered.
    return sorted(_checks.values(), key=lambda check: GROUPS.index(check.group))


def select_checks(names: Iterable[str]) -> list[Check]:
    """Return the checks with these names or in these groups, in running order; no names means all.

    Raises:
        ValueError: a name that is neither a check nor a group. Says the nearest one.
    """
    wanted = list(names)
    checks = every_check()
    known = [*GROUPS, *(c.name for c in checks)]
    for name in wanted:
        if name not in known:
            raise ValueError(f"no check or group is named {name!r}{nearest_name(name, known)}")
    return [c for c in checks if not wanted or c.name in wanted or c.group in wanted]


def _validate(
    name: str, origin: str, group: str, over: tuple[str, ...], texts: dict[str, str], requires: tuple[str, ...]
) -> None:
    from loss_conformance.cases.plan import SITUATIONS

    if name in _checks:
        raise CheckDefinitionError(
            f"check {name!r} of {origin}: the name is taken by one of {_checks[name].origin}; give it another"
        )
    if not name.isidentifier() or name in GROUPS:
        raise CheckDefinitionError(f"check name {name!r} must be an identifier and not the name of a group")
    if group not in GROUPS:
        raise CheckDefinitionError(f"check {name!r}: unknown group {group!r}{nearest_name(group, GROUPS)}")
    for situation in over:
        if situation not in SITUATIONS:
            hint = nearest_name(situation, SITUATIONS)
            raise CheckDefinitionError(f"check {name!r}: unknown situation {situation!r}{hint}")
    for text, content in texts.items():
        if not content.strip():
            raise CheckDefinitionError(f"check {name!r} needs a {text}")
    for required in requires:
        if required not in _checks and required != name:
            raise CheckDefinitionError(f"check {name!r} requires {required!r}, which is not registered before it")

"""What was asked for, whichever door it came through, and how to ask for it again."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from loss_conformance.attempt import Answers

__all__ = ["RunOptions"]

_SPELLED: Final = ("config", "contract", "baseline", "example")


@dataclass(frozen=True)
class RunOptions:
    """The options of one run, as the user typed them.

    Attributes:
        root: directory the run was started in; relative paths and modules are looked up from there.
        report: directory for reports, or ``None``.
        strict: advice fails too.
    """

    config: str | None = None
    contract: str | None = None
    baseline: str | None = None
    example: str | None = None
    profile: str = "standard"
    device: str = "auto"
    seed: int = 0
    report: str | None = None
    strict: bool = False
    root: str = "."

    @classmethod
    def read(cls, namespace: Any, root: str, prefix: str = "") -> RunOptions:
        """Return the options found in an argparse namespace, each stored there under ``prefix`` and its name."""
        names = [*_SPELLED, "profile", "device", "seed", "report", "strict"]
        return cls(**{name: getattr(namespace, prefix + name) for name in names}, root=root)

    def engine(self, target: str) -> Answers:
        """Load ``target`` and return what answers for it.

        Raises:
            TargetError: the target, its config or its contract cannot be loaded.
            CannotFeed: no inputs were found that it accepts.
        """
        from loss_conformance.opening import open_answers

        return open_answers(target, self)

    def settings(self, seed: int | None = None) -> dict[str, Any]:
        """Return what decides the verdicts: the seed, and the options that are not at their default."""
        given: dict[str, Any] = {name: getattr(self, name) for name in _SPELLED if getattr(self, name) is not None}
        if self.profile != "standard":
            given["profile"] = self.profile
        if self.device != "auto":
            given["device"] = self.device
        return {**given, "seed": self.seed if seed is None else seed}

    def command(self, targets: Iterable[str], keyword: str, seed: int | None = None) -> str:
        """Return the shell line that runs the checks ``keyword`` selects again."""
        named = [part for target in targets for part in ("--loss-conformance", target)]
        arguments = [part for name, value in self.settings(seed).items() for part in (f"--loss-{name}", str(value))]
        return shlex.join(["pytest", *named, "-k", keyword, *arguments])

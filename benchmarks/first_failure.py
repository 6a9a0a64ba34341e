"""How long a planted fault stands before a check fails: from the loaded loss to the first failing verdict."""

from __future__ import annotations

import sys
import time
from statistics import median

from loss_conformance.verdict import Status
from tests.faults.every import FAULTS
from tests.faults.fault import Fault


def seconds_to_failure(fault: Fault) -> float | None:
    """Return the seconds until the first check fails the wrong form, the contract declared; ``None`` when none does."""
    from loss_conformance.engine import Engine
    from loss_conformance.subject.load import load_subject
    from loss_conformance.subject.protocol import CannotFeed

    subject = load_subject(fault.wrong, contract=fault.contract)
    started = time.perf_counter()
    try:
        engine = Engine(subject, profile=fault.profile, device="cpu")
        for check in engine.checks():
            if engine.run(check.name).status is Status.FAILED:
                return time.perf_counter() - started
    except CannotFeed:
        return None
    return None


def main() -> None:
    taken = [seconds_to_failure(fault) for fault in FAULTS.values()]
    found = sorted(seconds for seconds in taken if seconds is not None)
    print(
        f"{len(found)} of {len(taken)} faults fail; the first failure, shrunk, comes after {median(found):.2f} s "
        f"(median), {found[int(0.9 * len(found))]:.2f} s (nine in ten), {found[-1]:.2f} s (all)"
    )


if __name__ == "__main__":
    sys.exit(main())

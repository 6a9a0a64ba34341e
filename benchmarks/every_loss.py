"""How long every reference loss takes in a profile, which checks take longest, and whether any of them is accused.

``python -m benchmarks.every_loss quick`` (or standard, thorough), with ``--seeds 0,1,2`` for several and ``--part 0/2``
for every second loss, so that two runs share two cores.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from statistics import median

from loss_conformance.verdict import Status
from tests.conformance.checks.every_reference import CONFIGS, LOSSES

SLOWEST = 10
ACCUSED = (Status.FAILED, Status.ADVICE, Status.BLOCKED)


@dataclass
class Figures:
    """What the runs of some losses came to.

    Attributes:
        seconds: of each run, from the loaded loss to the last verdict.
        inside: of them, the time inside the loss's forward and backward.
        checks: seconds by check over all runs.
        verdicts: how many laws were answered.
        accused: every verdict that is not a pass.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    inside: float = 0.0
    checks: Counter[str] = field(default_factory=Counter)
    verdicts: int = 0
    accused: list[str] = field(default_factory=list)


def measured(profile: str, seeds: list[int], losses: list[type]) -> Figures:
    """Run every loss with every seed."""
    from loss_conformance.engine import Engine
    from loss_conformance.subject.load import load_subject

    found = Figures()
    for cls in losses:
        for seed in seeds:
            started = time.perf_counter()
            subject = load_subject(cls, config=CONFIGS.get(cls.__name__))
            engine = Engine(subject, profile=profile, seed=seed, device="cpu")
            report = engine.report()
            found.seconds[f"{cls.__name__}, seed {seed}"] = time.perf_counter() - started
            found.inside += engine.bench.caller.stopwatch.inside
            for verdict in report.verdicts:
                found.checks[verdict.check] += verdict.seconds
                found.verdicts += verdict.status is Status.PASSED
                if verdict.status in ACCUSED:
                    found.accused.append(
                        f"{cls.__name__}, seed {seed}: {verdict.check} {verdict.status} {verdict.reason}"
                    )
    return found


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("profile", choices=("quick", "standard", "thorough"))
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--part", default="0/1")
    given = parser.parse_args(arguments)
    which, parts = map(int, given.part.split("/"))
    found = measured(given.profile, [int(seed) for seed in given.seeds.split(",")], LOSSES[which::parts])
    total = sum(found.seconds.values())
    slowest = max(found.seconds, key=lambda loss: found.seconds[loss])
    print(
        f"{given.profile}: {len(found.seconds)} runs, median {median(found.seconds.values()):.2f} s, "
        f"{slowest} {found.seconds[slowest]:.2f} s; {found.verdicts / total:.0f} laws held per second; "
        f"outside the loss {(total - found.inside) / found.inside:.1f} times the time inside"
    )
    for check, seconds in found.checks.most_common(SLOWEST):
        print(f"  {check}: {seconds / total:.1%} of the time, {seconds / len(found.seconds):.3f} s a run")
    for line in found.accused:
        print(line)
    return 1 if found.accused else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

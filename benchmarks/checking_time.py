"""How long one loss takes, beyond importing torch; how much of it is the engine; how much memory it needs."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from benchmarks.processes import in_turn, median_seconds

LOSS = "loss_reference.DPOLoss"
PAIRS = 5


def main() -> None:
    import_torch = ("-c", "import torch")
    with tempfile.TemporaryDirectory() as folder:
        for profile in ("quick", "standard"):
            command = ("-m", "pytest", "-p", "no:cacheprovider", "--loss-conformance", LOSS, "--loss-profile", profile)
            checked, imported = in_turn(command, import_torch, Path(folder), PAIRS)
            beyond = median(a.seconds - b.seconds for a, b in zip(checked, imported, strict=True))
            memory = median(a.mebibytes / b.mebibytes for a, b in zip(checked, imported, strict=True))
            print(
                f"{LOSS}, {profile}: {median_seconds(checked):.2f} s, {beyond:.2f} s beyond import torch; "
                f"peak memory {memory:.2f} times that of import torch"
            )
            print(f"  engine overhead: {overhead(profile):.2f} times the time inside the loss's forward and backward")


def overhead(profile: str) -> float:
    """Return the engine's time outside the loss as a multiple of the time inside it, from drawing to the last verdict."""
    from loss_conformance.engine import Engine
    from loss_conformance.subject.load import load_subject

    ratios = []
    for seed in range(PAIRS + 1):
        engine = Engine(load_subject(LOSS), profile=profile, seed=seed)
        started = time.perf_counter()
        engine.report()
        total = time.perf_counter() - started
        inside = engine.bench.caller.stopwatch.inside
        ratios.append((total - inside) / inside)
    # The first run pays for what torch sets up once per process.
    return median(ratios[1:])


if __name__ == "__main__":
    sys.exit(main())

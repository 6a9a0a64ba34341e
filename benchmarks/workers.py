"""Two workers: the same items, the same verdicts, one torch thread each."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from benchmarks.processes import in_turn, median_seconds

LOSSES = ("loss_reference.DPOLoss", "loss_reference.GRPOLoss", "loss_reference.NLLLoss", "loss_reference.ForwardKLLoss")


def main() -> None:
    command = ["-m", "pytest", "-p", "no:cacheprovider"]
    command += [part for loss in LOSSES for part in ("--loss-conformance", loss)]
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        one, two = verdicts([*command], directory), verdicts([*command, "-n", "2"], directory)
        alone, shared = in_turn(command, [*command, "-n", "2"], directory, 3)
    print(f"{len(LOSSES)} losses: {len(one)} items, verdicts {'identical' if one == two else 'DIFFERENT'} with -n 2")
    print(f"  {median_seconds(alone):.1f} s in one process, {median_seconds(shared):.1f} s with -n 2")


def verdicts(command: list[str], directory: Path) -> dict[str, str]:
    """Return item to outcome, as JUnit reports them."""
    subprocess.run([sys.executable, *command, "--junitxml=out.xml"], cwd=directory, check=True, capture_output=True)
    cases = ElementTree.parse(directory / "out.xml").iter("testcase")
    return {
        f"{case.get('classname')}::{case.get('name')}": ",".join(child.tag for child in case) or "passed"
        for case in cases
    }


if __name__ == "__main__":
    main()

"""What the plugin costs a pytest run that names no loss: ratio of medians over pairs of runs, and what it imports."""

from __future__ import annotations

import tempfile
from pathlib import Path
from statistics import median

from benchmarks.processes import in_turn, median_seconds

PAIRS = 10
TEST = """
import sys

def test_nothing_heavy_is_imported():
    assert not {"torch", "hypothesis"} & set(sys.modules)

def test_something():
    assert True
"""
# Other plugins of the environment would blur the comparison, and hypothesis's own would import hypothesis.
COMMON = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:hypothesispytest", "-p", "no:xdist")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        (directory / "test_plain.py").write_text(TEST)
        loaded, left_out = in_turn(COMMON, (*COMMON, "-p", "no:loss_conformance"), directory, PAIRS)
    ratio = median(a.seconds / b.seconds for a, b in zip(loaded, left_out, strict=True))
    print(
        f"a run that names no loss: {median_seconds(loaded):.3f} s with the plugin, {median_seconds(left_out):.3f} s without;"
    )
    print(f"median ratio of {PAIRS} pairs: {ratio:.3f}; torch and hypothesis are not imported")


if __name__ == "__main__":
    main()

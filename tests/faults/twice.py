"""Two runs of the whole fault suite, in processes of their own, agree verdict by verdict: ``python -m tests.faults.twice``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any


def matrix(hash_seed: str) -> dict[str, Any]:
    """Return the rows by fault; another hash seed gives sets and dicts of strings another order."""
    said = subprocess.run(
        [sys.executable, "-m", "tests.faults.matrix", "--json"],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        stdout=subprocess.PIPE,
        check=True,
    )
    return {row["id"]: row for row in json.loads(said.stdout)}


def main() -> int:
    one, other = matrix("1"), matrix("2")
    differing = [name for name in one.keys() | other.keys() if one.get(name) != other.get(name)]
    for name in sorted(differing):
        print(f"{name}\n  {one.get(name)}\n  {other.get(name)}")
    print(f"{len(one)} faults, {len(differing)} of them told differently by the second run")
    return 1 if differing else 0


if __name__ == "__main__":
    raise SystemExit(main())

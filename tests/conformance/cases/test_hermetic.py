"""The same seed gives the same cases, whatever the user's files contain."""

import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
{import_it}
from loss_conformance.cases.pool import draw_pool, smallest_plan
pool = draw_pool(12, 0)
plan = pool["typical"][0]
print(sorted(pool.items()), smallest_plan(plan, lambda candidate: candidate.rows > 2, 0))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "numbers_everywhere.py").write_text("X = [31337, 27182, 2, 3, 4, 5, 6]\n")
    return tmp_path


def drawn(folder: Path, import_it: str) -> str:
    command = [sys.executable, "-c", CODE.format(import_it=import_it)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout


def test_numbers_in_a_users_module_change_no_case_and_leave_no_folder(folder: Path) -> None:
    assert drawn(folder, "import numbers_everywhere") == drawn(folder, "")
    assert not (folder / ".hypothesis").exists()

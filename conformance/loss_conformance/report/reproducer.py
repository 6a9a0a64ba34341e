"""A script beside the failure that shows it again without pytest."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from loss_conformance.run_options import RunOptions

if TYPE_CHECKING:
    from loss_conformance.checks.registry import Check

__all__ = ["DIRECTORY", "write_reproducer"]

DIRECTORY: Final = ".loss-conformance"
"""Where the scripts go when no ``--loss-report`` directory is given; git is told to ignore it."""

_SCRIPT: Final = '''"""{target}::{check}: {statement}

Prints the failure and exits 1 while the law is broken, FIXED and 0 once it holds, ERROR and 2 when it cannot be run.
"""

from pathlib import Path

from loss_conformance.replay import replay

ROOT = (Path(__file__).parent / {root!r}).resolve()

if __name__ == "__main__":
    raise SystemExit(
        replay(
            {target!r},
            {check!r},
            root=ROOT,
{settings}
        )
    )
'''


def write_reproducer(
    target: str, check: Check, options: RunOptions, seed: int | None = None, *, named: bool = False
) -> Path | None:
    """Write the script and return where it is, or ``None`` where nothing can be written.

    Args:
        named: the file name says the target as well, because the run has several.
    """
    directory = Path(options.root) / (options.report or DIRECTORY)
    path = directory / f"{_file_name(target) + '-' if named else ''}{check.name}.py"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if options.report is None:
            (directory / ".gitignore").write_text("*\n", encoding="utf-8")
        path.write_text(_script(target, check, options, seed, directory), encoding="utf-8")
    except OSError:
        return None
    return path


def _script(target: str, check: Check, options: RunOptions, seed: int | None, directory: Path) -> str:
    settings = options.settings(seed)
    statement = check.statement.replace("\\", "\\\\").replace('"""', "'''")
    return _SCRIPT.format(
        target=target,
        check=check.name,
        statement=statement,
        root=Path(os.path.relpath(options.root, directory)).as_posix(),
        settings="\n".join(f"            {name}={value!r}," for name, value in settings.items()),
    )


def _file_name(target: str) -> str:
    return re.sub(r"[^\w.-]+", "_", target)

"""The generated parts of the README. ``python -m tests.update_readme`` rewrites them; a test checks that they are current."""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"


def failing_run() -> str:
    """Return the failure block of the README's own example, as the run prints it."""
    from loss_conformance.checks.registry import every_check
    from loss_conformance.doors import check_loss
    from loss_conformance.report.failing import Showing
    from loss_conformance.run_options import RunOptions

    sys.path.insert(0, str(ROOT / "examples"))
    try:
        import masked_mean_bug
    finally:
        sys.path.remove(str(ROOT / "examples"))
    report = check_loss(masked_mean_bug.MaskedMeanLoss, checks=("mask_value",))
    verdict = next(v for v in report.verdicts if v.check == "mask_value")
    check = next(c for c in every_check() if c.name == "mask_value")
    block = Showing("mymodule.MaskedMeanLoss", RunOptions(), True).block(check, verdict)
    return f"```text\n{block}\n```"


def generated() -> dict[str, str]:
    """Return the content of every generated part by name."""
    from loss_conformance.report.check_table import markdown_table
    from loss_conformance.report.loss_table import markdown_loss_table

    return {"failure": failing_run(), "losses": markdown_loss_table(), "checks": markdown_table()}


def replaced(text: str, parts: dict[str, str]) -> str:
    """Return ``text`` with the named parts between their markers."""
    for name, content in parts.items():
        pattern = re.compile(f"(<!-- {name}:begin -->).*?(<!-- {name}:end -->)", re.DOTALL)
        text, count = pattern.subn(lambda match, content=content: f"{match[1]}\n{content}\n{match[2]}", text)
        if count != 1:
            raise ValueError(f"README.md has {count} parts named {name!r}")
    return text


if __name__ == "__main__":
    README.write_text(replaced(README.read_text(), generated()))

"""The kill matrix: which check finds which planted fault. ``python -m tests.faults.matrix`` writes it to the documentation."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from loss_conformance.verdict import Status
from tests.faults.every import FAULTS
from tests.faults.fault import ADVICE, FAILED, UNSEEN, Fault
from tests.faults.judging import WRONG, judge

PAGE = Path(__file__).parents[2] / "docs" / "kill_matrix.md"
HEAD = ("fault", "mistake", "happened in", "found by", "told as advice by", "with nothing declared")
NOBODY = "—"


@dataclass(frozen=True)
class Row:
    """What the suite says about the wrong form of one fault.

    Attributes:
        must, advice: the checks that fail, and those that advise, with the contract declared.
        bare_must, bare_advice: the same with nothing declared.
        declared, bare: how it is told: by a failure of a group it names, or any without a contract.
    """

    id: str
    what: str
    citation: str
    must: tuple[str, ...]
    advice: tuple[str, ...]
    bare_must: tuple[str, ...]
    bare_advice: tuple[str, ...]
    declared: str
    bare: str

    def cells(self) -> tuple[str, ...]:
        return (
            self.id,
            self.what.replace("|", "\\|"),
            self.citation,
            _listed(self.must),
            _listed(self.advice),
            self._bare(),
        )

    def _bare(self) -> str:
        said = [_listed(self.bare_must)] if self.bare_must else []
        said += [f"advice: {_listed(self.bare_advice)}"] if self.bare_advice else []
        return "; ".join(said) or NOBODY


def in_order() -> list[Fault]:
    """Return the faults by number, those of the study first."""
    return sorted(FAULTS.values(), key=lambda fault: (fault.id[0], int(re.sub(r"\D", "", fault.id)), fault.id))


def row(fault: Fault) -> Row:
    """Run the whole suite on the wrong form, with the contract and without."""
    _, must, advice, groups = _verdicts(fault, declared=True)
    bare, bare_must, bare_advice, _ = _verdicts(fault, declared=False)
    named = [check for check in must if groups[check] in fault.groups]
    advised = [check for check in advice if groups[check] in fault.groups]
    declared = FAILED if named else ADVICE if advised else UNSEEN
    return Row(fault.id, fault.what, fault.citation, must, advice, bare_must, bare_advice, declared, bare)


def _verdicts(fault: Fault, *, declared: bool) -> tuple[str, tuple[str, ...], tuple[str, ...], dict[str, str]]:
    verdicts = list(judge(fault.id, WRONG, declared).verdicts())
    must = tuple(v.check for v in verdicts if v.status is Status.FAILED)
    advice = tuple(v.check for v in verdicts if v.status is Status.ADVICE)
    named = any(v.status is Status.ADVICE and v.group in fault.groups for v in verdicts)
    told = FAILED if must else ADVICE if named else UNSEEN
    return told, must, advice, {v.check: v.group for v in verdicts}


def _listed(checks: Iterable[str]) -> str:
    return ", ".join(f"`{check}`" for check in checks) or NOBODY


def page(rows: list[Row]) -> str:
    lines = ["| " + " | ".join(cells) + " |" for cells in (HEAD, ("---",) * len(HEAD), *(r.cells() for r in rows))]
    kills = Counter(check for r in rows for check in {*r.must, *r.advice})
    counts = " · ".join(f"`{check}` {number}" for check, number in sorted(kills.items(), key=lambda k: (-k[1], k[0])))
    return "\n".join(
        [
            "# Kill matrix",
            "",
            "Which check finds which planted fault of `tests/faults`, profile quick, seed 0. Made by `python -m "
            "tests.faults.matrix`; a fault that survives, a right form that fails, or a check that finds nothing fails "
            "the tests.",
            "",
            sentence(Counter(r.declared for r in rows), Counter(r.bare for r in rows)),
            "",
            *lines,
            "",
            f"Faults per check, with the contract declared: {counts}.",
            "",
        ]
    )


def sentence(declared: Counter[str], bare: Counter[str]) -> str:
    """Return the figures, as the README says them."""
    cited = sum(bool(fault.citation) for fault in FAULTS.values())
    return (
        f"`tests/faults` plants {len(FAULTS)} mistakes beside their right forms, {cited} of them rebuilt from bugs that "
        f"were really fixed somewhere. With a contract declared, {declared[FAILED]} fail in the group that names them, "
        f"{declared[ADVICE]} are told as advice and {declared[UNSEEN]} go unseen; with nothing declared at all "
        f"{bare[FAILED]} fail, {bare[ADVICE]} are advice and {bare[UNSEEN]} go unseen. No right form fails."
    )


def cells_of(text: str) -> dict[str, tuple[str, ...]]:
    """Return the cells of every row of a page by the id of its fault."""
    found = {}
    for line in text.splitlines():
        cells = tuple(cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1])
        if len(cells) == len(HEAD) and cells[0] in FAULTS:
            found[cells[0]] = cells
    return found


def main() -> None:
    rows = [row(fault) for fault in in_order()]
    if "--json" in sys.argv:
        print(json.dumps([asdict(r) for r in rows]))
        return
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(rows), encoding="utf-8")
    print(sentence(Counter(r.declared for r in rows), Counter(r.bare for r in rows)))


if __name__ == "__main__":
    main()

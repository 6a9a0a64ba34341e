"""The summary, the JSON and HTML reports and the table of checks, from the same records."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from loss_conformance.checks.registry import every_check
from loss_conformance.report.check_table import explanation, markdown_table, text_table
from loss_conformance.report.failing import Showing
from loss_conformance.report.files import write_reports
from loss_conformance.report.record import Notes, Record
from loss_conformance.report.run import Run
from loss_conformance.report.summary import denominators, summary_lines
from loss_conformance.run_options import RunOptions
from tests.conformance.pytest_side.fake_engine import CHECKS, FakeEngine


def run_of(options: RunOptions, *targets: str, checks: int = len(CHECKS)) -> Run:
    run = Run(targets)
    for target in targets:
        engine = FakeEngine(target)
        showing = Showing(target, options, alone=len(targets) == 1)
        for check in CHECKS[:checks]:
            verdict = engine.run(check.name)
            run.add(Record.of(target, check, verdict, block=showing.block(check, verdict), out_of=len(CHECKS)))
        run.note(target, Notes(engine.header(), engine.facts(), engine.warnings()))
    return run


def test_records_survive_json(options: RunOptions) -> None:
    for record in run_of(options, "mymodule.MaskBug").records:
        assert Record(**json.loads(json.dumps(record.plain()))) == record


def test_notes_of_two_processes_are_said_once() -> None:
    joined = Notes(("h",), ("a", "b"), ("w",)).joined(Notes(("h",), ("b", "c"), ("w", "v")))
    assert joined == Notes(("h",), ("a", "b", "c"), ("w", "v"))
    assert Notes.read(json.loads(json.dumps(joined.plain()))) == joined


def test_denominators(options: RunOptions) -> None:
    run = run_of(options, "mymodule.MaskBug", "mymodule.NoScalar", "mymodule.NothingApplies")
    assert [denominators(run, target) for target in run.targets] == [
        "mymodule.MaskBug: 5 applicable, 2 passed, 1 failed, 1 expected failure, 1 advice; 1 not applicable",
        "mymodule.NoScalar: 5 applicable, 0 passed, 1 failed, 1 expected failure, 1 advice, 2 blocked; 1 not applicable",
        "mymodule.NothingApplies: 0 applicable, 0 passed; 6 not applicable",
    ]


def test_a_part_of_the_checks_is_no_conformance_result(options: RunOptions) -> None:
    text = denominators(run_of(options, "mymodule.Sound", checks=2), "mymodule.Sound")
    assert (
        text == "mymodule.Sound: 2 applicable, 2 passed; 0 not applicable; not a conformance result: 2 of 6 checks ran"
    )


def test_reasons_are_said_once_for_all_their_checks(options: RunOptions) -> None:
    lines = [line.text for line in summary_lines(run_of(options, "mymodule.NothingApplies"))]
    names = ", ".join(check.name for check in CHECKS)
    assert f"  not applicable    it has no inputs: {names}" in lines


def test_guessed_facts_are_listed_and_declared_ones_are_not(options: RunOptions) -> None:
    text = "\n".join(line.text for line in summary_lines(run_of(options, "mymodule.Sound")))
    assert "  guessed           level = 'pair' (inferred: it reads rows in pairs)" in text
    assert "(declared)" not in text


def test_long_lines_are_wrapped(options: RunOptions) -> None:
    run = run_of(options, "mymodule.Sound")
    run.note("mymodule.Sound", Notes(warnings=("long " * 60,)))
    assert max(len(line.text) for line in summary_lines(run)) <= 120


@pytest.mark.parametrize(
    ("targets", "problems"),
    [
        (["mymodule.Sound"], []),
        (["mymodule.MaskBug"], []),
        (["mymodule.NothingApplies"], ["nothing was tested: none of the checks that ran applies"]),
        (
            ["mymodule.Sound", "mymodule.NothingApplies"],
            ["mymodule.NothingApplies: nothing was tested: no check applies"],
        ),
    ],
)
def test_what_turns_a_run_red(options: RunOptions, targets: list[str], problems: list[str]) -> None:
    assert run_of(options, *targets).problems() == problems


def test_a_run_without_records_has_no_problem() -> None:
    assert Run(["m.L"]).problems() == []


def test_json(options: RunOptions) -> None:
    options = replace(options, report="out", seed=3)
    directory = write_reports(run_of(options, "mymodule.MaskBug"), options)
    assert sorted(path.name for path in directory.iterdir()) == ["mask_value.py", "report.html", "report.json"]
    report = json.loads((directory / "report.json").read_text())
    assert report["format"] == 1
    assert report["options"] == {"seed": 3, "profile": "standard", "device": "auto"}
    assert report["problems"] == []
    (target,) = report["targets"]
    assert target["target"] == "mymodule.MaskBug"
    assert target["complete"] is True
    assert target["counts"]["failed"] == 1
    assert target["warnings"] == ["the clip region was never entered"]
    broken = target["checks"][2]
    assert (broken["check"], broken["status"], broken["failure"]["got"]) == ("mask_value", "failed", "0.7413")
    assert broken["block"].startswith("mymodule.MaskBug::mask_value FAILED")


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_html_is_whole_and_needs_nothing_else(options: RunOptions) -> None:
    options = replace(options, report="out")
    page = Path(write_reports(run_of(options, "mymodule.MaskBug"), options), "report.html").read_text()
    parser = Tags()
    parser.feed(page)
    assert parser.open == []
    assert 'model_outputs["next_token_logprobs"][0,1]: -1.0 → -3.0' in parser.text
    assert not re.search(r"https?://|src=|href=", page)


def rows(table: str) -> Iterator[list[str]]:
    for line in table.splitlines()[2:]:
        yield [cell.strip(" `") for cell in line.strip("|").split(" | ")]


def test_the_table_of_checks() -> None:
    lines = text_table().splitlines()
    assert lines[0].split() == ["check", "group", "severity", "what", "must", "hold"]
    assert [line.split()[:3] for line in lines[1:]] == [[c.name, c.group, c.severity.value] for c in every_check()]
    assert [row[0] for row in rows(markdown_table())] == [c.name for c in every_check()]


def test_an_explanation_says_why_and_how_to_fix() -> None:
    check = every_check()[0]
    text = explanation(check)
    assert text.startswith(f"{check.name}\n  {check.statement}\n")
    assert check.why in text
    assert check.fix in text

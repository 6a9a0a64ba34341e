"""``loss-conformance``: the same engine without a test run to set up."""

from __future__ import annotations

import argparse
import os
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from loss_conformance.report.reproducer import DIRECTORY
from loss_conformance.run_options import RunOptions

if TYPE_CHECKING:
    from loss_conformance.report.run import Run

__all__ = ["main"]

OK: Final = 0
FAILED: Final = 1
USAGE: Final = 4


class _Parser(argparse.ArgumentParser):
    """Ends with the exit status pytest gives to a usage error."""

    def error(self, message: str) -> Any:
        self.print_usage(sys.stderr)
        self.exit(USAGE, f"ERROR: {message}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0 conformant, 1 a check failed, 4 usage."""
    from loss_conformance.extensions import BrokenExtension

    namespace = _parser().parse_args(arguments)
    try:
        return int(namespace.run(namespace))
    except BrokenExtension as error:
        return _usage(error)
    except BrokenPipeError:  # `loss-conformance list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK


def _parser() -> _Parser:
    parser = _Parser(prog="loss-conformance", description="Tells you that your training loss is wrong.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    check = commands.add_parser("check", help="run the checks on one loss or several")
    check.add_argument("targets", nargs="+", metavar="TARGET", help="package.module.Name, module:Name or file.py:Name")
    check.add_argument("--only", action="append", default=[], metavar="NAME", help="this check or group; repeatable")
    check.add_argument("--baseline", metavar="NAME|TARGET", help="compare with this reference loss, or any other loss")
    _add_options(check)
    check.set_defaults(run=_check)

    compare = commands.add_parser("compare", help="compare value and gradient of two losses")
    compare.add_argument("targets", nargs=1, metavar="A")
    compare.add_argument("baseline", metavar="B")
    _add_options(compare)
    compare.set_defaults(run=_check, only=["baseline"])

    commands.add_parser("list", help="print the table of checks").set_defaults(run=_list)

    explain = commands.add_parser("explain", help="say everything about one check or group")
    explain.add_argument("name", metavar="NAME")
    explain.set_defaults(run=_explain)

    replay = commands.add_parser("replay", help="run a failure of an earlier run again")
    replay.add_argument("case", metavar="FILE|CHECK", help=f"a script of {DIRECTORY}, or the check it is named after")
    replay.set_defaults(run=_replay)
    return parser


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", metavar="JSON|FILE", help="constructor config")
    parser.add_argument("--contract", metavar="TARGET|FILE", help="contract of a loss that carries none")
    parser.add_argument("--example", metavar="TARGET", help="function that returns one (batch, model_outputs)")
    parser.add_argument("--profile", choices=("quick", "standard", "thorough"), default="standard")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ...")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--report", metavar="DIR", help="write report.json, report.html and the failing cases to DIR")
    parser.add_argument("--strict", action="store_true", help="advice fails too")


def _check(namespace: argparse.Namespace) -> int:
    from loss_conformance.report.run import Run
    from loss_conformance.run_without_pytest import run_target
    from loss_conformance.subject.subject import TargetError

    options = RunOptions.read(namespace, os.getcwd())
    targets = tuple(dict.fromkeys(namespace.targets))
    run = Run(targets)
    for target in targets:
        try:
            run_target(run, target, options, namespace.only, alone=len(targets) == 1)
        except TargetError as error:
            return _usage(error, error.traceback)
        except ValueError as error:
            return _usage(error)
    return _told(run, options)


def _told(run: Run, options: RunOptions) -> int:
    from loss_conformance.report.files import write_reports
    from loss_conformance.report.summary import summary_lines

    for record in run.failing(strict=options.strict):
        print(f"{record.block}\n")
    for line in summary_lines(run):
        print(line.text)
    if options.report:
        print(f"written: {write_reports(run, options)}")
    return FAILED if run.failing(strict=options.strict) or run.problems() else OK


def _list(namespace: argparse.Namespace) -> int:
    from loss_conformance.report.check_table import text_table

    print(text_table())
    return OK


def _explain(namespace: argparse.Namespace) -> int:
    from loss_conformance.checks.registry import select_checks
    from loss_conformance.report.check_table import explanation

    try:
        checks = select_checks([namespace.name])
    except ValueError as error:
        return _usage(error)
    print("\n\n".join(map(explanation, checks)))
    return OK


def _replay(namespace: argparse.Namespace) -> int:
    named = Path(namespace.case)
    script = named if named.suffix == ".py" else Path(DIRECTORY) / f"{namespace.case}.py"
    if not script.is_file():
        kept = sorted(path.stem for path in Path(DIRECTORY).glob("*.py"))
        return _usage(f"there is no {script}; replay one of: {', '.join(kept) or 'none, nothing has failed here'}")
    try:
        runpy.run_path(str(script), run_name="__main__")
    except SystemExit as finished:
        return int(finished.code or OK)
    return OK


def _usage(error: object, traceback: str = "") -> int:
    print(f"ERROR: {error}", *([traceback] if traceback else []), sep="\n", file=sys.stderr)
    return USAGE

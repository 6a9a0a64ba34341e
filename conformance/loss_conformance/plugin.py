"""How pytest reaches us: the options, and the switch. Imports nothing heavy until a loss is named."""

from __future__ import annotations

from typing import Any, Final

import pytest

__all__ = ["pytest_addoption", "pytest_cmdline_main", "pytest_configure"]

_OPTIONS: Final[tuple[tuple[str, dict[str, Any]], ...]] = (
    (
        "--loss-conformance",
        {
            "action": "append",
            "default": [],
            "metavar": "TARGET",
            "dest": "loss_targets",
            "help": "check this loss: a dotted path, module:Name or file.py:Name. May be given several times. "
            "Without a path argument only the checks run, with paths the tests there as well.",
        },
    ),
    ("--loss-config", {"metavar": "JSON|FILE", "help": "constructor config: JSON text, or a JSON, TOML or YAML file."}),
    ("--loss-contract", {"metavar": "TARGET|FILE", "help": "contract of a loss that carries none."}),
    (
        "--loss-baseline",
        {"metavar": "NAME|TARGET", "help": "compare with this reference loss, or with any other loss."},
    ),
    ("--loss-example", {"metavar": "TARGET", "help": "function that returns one (batch, model_outputs)."}),
    (
        "--loss-profile",
        {
            "choices": ("quick", "standard", "thorough"),
            "default": "standard",
            "help": "how much to try (default: standard).",
        },
    ),
    ("--loss-device", {"default": "auto", "metavar": "DEVICE", "help": "auto, cpu, cuda, ... (default: auto)."}),
    ("--loss-seed", {"type": int, "default": 0, "metavar": "N", "help": "seed of the cases (default: 0)."}),
    ("--loss-report", {"metavar": "DIR", "help": "write report.json, report.html and the failing cases to DIR."}),
    ("--loss-strict", {"action": "store_true", "help": "advice fails the run too."}),
    ("--loss-list", {"action": "store_true", "help": "print the table of checks and exit."}),
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of design section 3.3 and the ini list of targets."""
    group = parser.getgroup("loss-conformance", "loss conformance")
    for name, settings in _OPTIONS:
        group.addoption(name, **settings)
    parser.addini(
        "loss_conformance",
        type="linelist",
        default=[],
        help="losses to check in every run that names neither a path nor --loss-conformance.",
    )


def pytest_cmdline_main(config: pytest.Config) -> int | None:
    """Answer ``--loss-list`` without running anything."""
    if not config.option.loss_list:
        return None
    from loss_conformance.extensions import BrokenExtension
    from loss_conformance.report.check_table import text_table

    try:
        print(text_table())
    except BrokenExtension as error:
        raise pytest.UsageError(str(error)) from None
    return 0


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker, and the rest of the plugin when there is a loss to check."""
    config.addinivalue_line("markers", "loss_conformance: a check of --loss-conformance.")
    if config.option.loss_targets or config.getini("loss_conformance"):
        from loss_conformance.pytest_side.switch import switch_on

        switch_on(config)

"""Turning the plugin on: what runs beside the checks, and who reports."""

from __future__ import annotations

import pytest

from loss_conformance.pytest_side.collecting import Collecting
from loss_conformance.pytest_side.reporting import Reporting
from loss_conformance.pytest_side.request import request_of
from loss_conformance.pytest_side.worker import Worker

__all__ = ["switch_on"]


def switch_on(config: pytest.Config) -> None:
    """Register what collects and what reports the checks.

    ``--loss-conformance`` without a path runs the checks alone; with paths the tests there run as well. The targets of
    the ini file are for the whole suite: they run beside the tests, and not when somebody asks for some paths only.
    """
    restricted = config.args_source is pytest.Config.ArgsSource.ARGS
    named = config.option.loss_targets
    if restricted and not named:
        return
    if named and not restricted:
        config.args = []
    request = request_of(config, named or config.getini("loss_conformance"))
    collecting = Collecting(request)
    reporting = Worker(config, collecting) if request.is_worker else Reporting(request, collecting)
    config.pluginmanager.register(collecting, "loss_conformance_collecting")
    config.pluginmanager.register(reporting, "loss_conformance_reporting")

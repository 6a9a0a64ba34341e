"""The one setting: an environment variable."""

from __future__ import annotations

from typing import Final

__all__ = ["IN_PROCESS"]

IN_PROCESS: Final = "LOSS_CONFORMANCE_IN_PROCESS"
"""Keeps losses in the process that asks, for a debugger or a library that does not survive a fork."""

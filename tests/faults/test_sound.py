"""Correct losses of every style, with nothing declared, are not blamed."""

from __future__ import annotations

import pytest

from tests.faults.judging import Judge, alarms
from tests.faults.sound import SOUND


@pytest.mark.parametrize("loss", SOUND, ids=lambda loss: loss.__name__)
def test_correct_loss_is_not_blamed(loss):
    assert alarms(Judge(loss, None, "quick")) == []

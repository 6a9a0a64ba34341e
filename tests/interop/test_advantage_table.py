"""Every row of the table of advantage estimators is run."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

import pytest

from tests.interop.advantage_table import ESTIMATES, GUARD, Estimate, given

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("estimate", ESTIMATES, ids=str)
def test_our_advantages_are_theirs(estimate: Estimate) -> None:
    try:
        version(estimate.library)
    except PackageNotFoundError:
        pytest.skip(f"{estimate.library} is not installed")
    for seed in (1, 2, 3):
        x = given(seed)
        ours, theirs = estimate.ours(x), estimate.theirs(x)
        assert theirs.abs().max() > 0
        assert (ours - theirs).abs().max() <= GUARD * theirs.abs().max()

"""Every row of the library table is run: what it calls the same is the same, what it says differs does so as stated."""

from __future__ import annotations

from functools import partial
from importlib.metadata import PackageNotFoundError, version

import pytest

from loss_reference import registry
from tests.interop.comparison import Computed, Row, agree, compute
from tests.interop.formula_table import READ_AT, READINGS, Reading
from tests.interop.inputs import Inputs
from tests.interop.library_table import RELEASES, TABLE
from tests.interop.update_table import DOCUMENT, document

pytestmark = pytest.mark.filterwarnings("ignore")
SEEDS = (1, 2, 3)


def computed_there(row: Row, inputs: Inputs) -> Computed:
    """Return value and gradient of theirs, or skip the test where the library is not installed or does not load."""
    try:
        version(RELEASES[row.library].distribution)
    except PackageNotFoundError:
        pytest.skip(f"{row.library} is not installed")
    try:
        return compute(row.theirs, inputs)
    except ImportError as error:
        if (error.name or "").split(".")[0] == row.library:
            raise  # it is there, and has no such module: the row is wrong
        pytest.skip(f"{row.library} does not load: {error}")


@pytest.mark.parametrize("row", TABLE, ids=str)
def test_ours_is_theirs(row: Row) -> None:
    trained = False
    for seed in SEEDS:
        inputs = row.inputs(row.dtype, seed)
        theirs = computed_there(row, inputs)
        ours = compute(partial(row.ours, row.build()), row.inputs(row.dtype, seed))
        assert agree(row, ours, theirs, inputs), f"seed {seed}: ours {ours}\ntheirs {theirs}"
        trained |= any(bool(g.any()) for g in theirs.gradient.values())
    assert trained, "their gradient is 0 every time: nothing was compared"


@pytest.mark.parametrize("row", [row for row in TABLE if row.option or row.difference], ids=str)
def test_without_option_or_conversion_they_differ(row: Row) -> None:
    inputs = row.inputs(row.dtype, 1)
    theirs = computed_there(row, inputs)
    if row.option:
        without = compute(partial(row.ours, row.build(with_option=False)), inputs)
        assert not agree(row, without, theirs, inputs), f"{row.option} changes nothing"
    if row.difference and row.plain is not None:
        without = compute(partial(row.plain, row.build()), inputs)
        assert not agree(row, without, theirs, inputs), "the conversion changes nothing"


def test_rows_are_distinct_and_of_known_libraries() -> None:
    names = [str(row) for row in TABLE]
    assert len(set(names)) == len(names)
    assert {row.library for row in TABLE} == set(RELEASES)


@pytest.mark.parametrize("library", RELEASES)
def test_the_release_compared_with_is_the_one_the_table_names(library: str) -> None:
    named = RELEASES[library]
    try:
        installed = version(named.distribution).split("+")[0]
    except PackageNotFoundError:
        pytest.skip(f"{named.distribution} is not installed")
    if installed != named.version:
        pytest.skip(f"the table speaks of {named.distribution} {named.version}, here is {installed}")


def test_the_committed_page_is_current() -> None:
    assert DOCUMENT.read_text() == document(), "run: python -m tests.interop.update_table"


@pytest.mark.parametrize("reading", READINGS, ids=lambda reading: f"{reading.loss}-{reading.library}")
def test_the_config_that_was_read_is_one_the_loss_accepts(reading: Reading) -> None:
    registry.create(reading.loss, dict(reading.option))
    assert reading.library in READ_AT

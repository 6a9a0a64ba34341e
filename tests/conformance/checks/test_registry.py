"""A check is validated when it is defined, and selected by its name or its group."""

from typing import Any

import pytest

from loss_conformance.cases.plan import SITUATIONS
from loss_conformance.checks import registry
from loss_conformance.checks.registry import GROUPS, CheckDefinitionError, check, every_check, select_checks

GOOD: dict[str, Any] = {
    "group": "masking",
    "statement": "L is right.",
    "why": "Because.",
    "fix": "Make it so.",
    "name": "brand_new_law",
}


@pytest.fixture(autouse=True)
def table_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_checks", dict(registry._checks))


def define(**changed: Any) -> None:
    @check(**{**GOOD, **changed})
    def law(trial: object) -> None: ...


def test_a_good_definition_is_listed_in_its_group() -> None:
    define()
    names = [c.name for c in every_check() if c.group == "masking"]
    assert names[-1] == "brand_new_law"
    (found,) = select_checks(["brand_new_law"])
    assert (found.statement, found.requires) == ("L is right.", ("scalar_output",))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (
            {"name": "mask_value"},
            f"check 'mask_value' of {__name__}: the name is taken by one of "
            "loss_conformance.checks.masking; give it another",
        ),
        ({"name": "mask-value"}, "check name 'mask-value' must be an identifier and not the name of a group"),
        ({"name": "masking"}, "check name 'masking' must be an identifier and not the name of a group"),
        ({"group": "maskin"}, "check 'brand_new_law': unknown group 'maskin'; did you mean 'masking'?"),
        ({"over": ("typcal",)}, "check 'brand_new_law': unknown situation 'typcal'; did you mean 'typical'?"),
        ({"statement": " "}, "check 'brand_new_law' needs a statement"),
        ({"why": ""}, "check 'brand_new_law' needs a why"),
        ({"fix": ""}, "check 'brand_new_law' needs a fix"),
        (
            {"requires": ("mask_valu",)},
            "check 'brand_new_law' requires 'mask_valu', which is not registered before it",
        ),
    ],
)
def test_a_bad_definition_is_refused(changed: dict[str, Any], said: str) -> None:
    before = [c.name for c in every_check()]
    with pytest.raises(CheckDefinitionError) as refused:
        define(**changed)
    assert str(refused.value) == said
    assert [c.name for c in every_check()] == before


def test_checks_run_after_what_they_require() -> None:
    names = [c.name for c in every_check()]
    for position, found in enumerate(every_check()):
        assert all(names.index(required) < position for required in found.requires), found.name


def test_checks_come_group_by_group() -> None:
    groups = [c.group for c in every_check()]
    assert groups == sorted(groups, key=GROUPS.index)


def test_every_check_is_complete() -> None:
    for found in every_check():
        assert found.statement.endswith(".")
        assert found.why.endswith((".", "?"))
        assert found.fix.endswith((".", "?"))
        assert set(found.over) <= set(SITUATIONS)
        assert found.name.isidentifier()


def test_every_check_but_the_first_depends_on_a_scalar_output() -> None:
    first, *others = every_check()
    assert (first.name, first.requires) == ("scalar_output", ())
    assert all("scalar_output" in found.requires for found in others)


def test_no_names_means_all() -> None:
    assert select_checks([]) == every_check()


def test_names_and_groups_select_in_running_order() -> None:
    chosen = [c.name for c in select_checks(["mask_value", "interface"])]
    assert chosen[0] == "scalar_output"
    assert chosen[-1] == "mask_value"
    assert {c.group for c in select_checks(["interface"])} == {"interface"}


@pytest.mark.parametrize(
    ("name", "hint"),
    [("mask_valeu", "; did you mean 'mask_value'?"), ("maskng", "; did you mean 'masking'?"), ("x", "")],
)
def test_an_unknown_name_is_an_error_with_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(ValueError) as refused:  # noqa: PT011 - the message is compared whole
        select_checks([name])
    assert str(refused.value) == f"no check or group is named {name!r}{hint}"


def test_a_profile_includes_the_cheaper_ones() -> None:
    def of(profile: str) -> set[str]:
        return {c.name for c in every_check() if c.belongs_to(profile)}

    assert of("quick") <= of("standard") <= of("thorough")
    assert of("thorough") == {c.name for c in every_check()}

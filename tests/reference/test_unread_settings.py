"""A setting that nothing reads beside the others is refused, at any other value than its default."""

from __future__ import annotations

from typing import Any

import pytest

from loss_reference import (
    ConfigError,
    CPOLoss,
    GRPOLoss,
    HintonKDLoss,
    LossFunction,
    NLLLoss,
    Setting,
    UnlikelihoodLoss,
)
from loss_reference.relevance import unless, where
from loss_reference.settings import settings_of, without_unread
from tests.conformance.checks.every_reference import CONFIGS, LOSSES
from tests.reference.companions import failing, read_at

CONDITIONAL = [
    pytest.param(cls, setting.key, condition, id=f"{cls.__name__}-{setting.key}-{condition.setting}")
    for cls in LOSSES
    for setting in settings_of(cls).values()
    for condition in setting.read_when
]


def other_value(setting: Setting[Any]) -> Any:
    """Return a legal value that is not the default."""
    if setting.choices:
        return next(choice for choice in setting.choices if choice != setting.default)
    if isinstance(setting.default, bool):
        return not setting.default
    if not setting.check:
        return (2, 3)
    return 2 if setting.whole else 1.5 if setting.default is None else setting.default / 2 or 0.25


def refusal(cls: type[LossFunction], config: dict[str, Any]) -> str:
    """Return what is said against a config, nothing where it is accepted."""
    try:
        cls(config)
    except ConfigError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("cls", LOSSES, ids=lambda cls: cls.__name__)
def test_every_key_at_its_default_is_accepted(cls: type[LossFunction]) -> None:
    """Whatever one of them is set to: trainers list every key."""
    defaults = {setting.key: setting.default for setting in settings_of(cls).values() if setting.check}
    cls({**defaults, **CONFIGS.get(cls.__name__, {})})
    for key, option in cls.contract.options.items():
        for value in option.values:
            # Some values do not go together with a default, which is another matter.
            said = refusal(cls, {**defaults, **CONFIGS.get(cls.__name__, {}), **read_at(cls, key, value)})
            assert "has no effect" not in said


@pytest.mark.parametrize(("cls", "key", "condition"), CONDITIONAL)
def test_what_nothing_reads_is_refused(cls: type[LossFunction], key: str, condition: Any) -> None:
    setting = next(setting for setting in settings_of(cls).values() if setting.key == key)
    value = other_value(setting)
    assert cls(read_at(cls, key, value)).config[key] == value
    config = {**read_at(cls, key, value), **failing(cls, condition)}
    with pytest.raises(ConfigError) as error:
        cls(config)
    said = str(error.value)
    assert said.startswith(f"{cls.__name__}: {key}={value!r} has no effect beside {condition.setting}=")
    assert said.endswith(f"; it is read where {condition}")
    kept = without_unread(cls, config)
    assert key not in kept
    cls(kept)


MESSAGES: list[tuple[type[LossFunction], dict[str, Any], str]] = [
    (
        GRPOLoss,
        {"kl_type": "k1", "reference_policy_kl_penalty": 0},
        "GRPOLoss: kl_type='k1' has no effect beside reference_policy_kl_penalty=0; "
        "it is read where reference_policy_kl_penalty is not 0",
    ),
    (
        NLLLoss,
        {"max_length": 8},
        "NLLLoss: max_length=8 has no effect beside aggregation='token_mean'; it is read where aggregation is 'fixed'",
    ),
    (
        CPOLoss,
        {"label_smoothing": 0.1, "loss_type": "hinge"},
        "CPOLoss: label_smoothing=0.1 has no effect beside loss_type='hinge'; it is read where loss_type is 'sigmoid'",
    ),
    (
        HintonKDLoss,
        {"alpha": 0.0, "temperature": 4.0},
        "HintonKDLoss: temperature=4.0 has no effect beside alpha=0.0 and temper_hard=False; "
        "it is read where alpha is not 0 or temper_hard is True",
    ),
    (
        UnlikelihoodLoss,
        {"ngram": 2},
        "UnlikelihoodLoss: ngram=2 has no effect beside candidates='context'; "
        "it is read where candidates is 'repeated_ngrams'",
    ),
]


@pytest.mark.parametrize(("cls", "config", "message"), MESSAGES)
def test_message(cls: type[LossFunction], config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        cls(config)
    assert str(error.value) == message


def test_any_of_several_conditions() -> None:
    assert HintonKDLoss({"alpha": 0.0, "temper_hard": True, "temperature": 4.0}).temperature == 4.0
    assert HintonKDLoss({"alpha": 1.0, "temperature": 4.0}).temperature == 4.0


def test_a_subclass_may_read_what_its_parent_leaves_unread() -> None:
    class Capped(NLLLoss):
        strict_config = True
        max_length = Setting[float | None](None, above=0.0, optional=True)

    class Weighted(NLLLoss):
        bonus = Setting(0.0, least=0.0)
        shape = Setting("flat", choices=("flat", "steep"), read_when=unless("bonus", 0))
        slope = Setting(1.0, read_when=(unless("bonus", 0), where("shape", "steep")))

    assert Capped({"max_length": 8}).max_length == 8
    assert Weighted({"bonus": 1.0, "shape": "steep", "slope": 2.0}).slope == 2.0
    with pytest.raises(ConfigError, match=r"Weighted: shape='steep' has no effect beside bonus=0\.0"):
        Weighted({"shape": "steep"})
    with pytest.raises(ConfigError, match="Weighted: slope=2 has no effect beside shape='flat'"):
        Weighted({"bonus": 1.0, "slope": 2})
    with pytest.raises(ConfigError, match="Weighted: max_length=8 has no effect beside aggregation='token_mean'"):
        Weighted({"max_length": 8})


def test_a_config_of_another_loss_is_rid_of_what_nothing_reads() -> None:
    config = {"max_length": 8, "kl_type": "k1", "reference_policy_kl_penalty": 0.0, "ratio_clip_max": 0.3, "other": 1}
    kept = {"reference_policy_kl_penalty": 0.0, "ratio_clip_max": 0.3, "other": 1}
    assert without_unread(GRPOLoss, config) == kept
    assert without_unread(UnlikelihoodLoss, {"alpha": 0, "candidates": "repeated_ngrams", "ngram": 2}) == {"alpha": 0}
    assert without_unread(GRPOLoss, config | {"aggregation": "fixed"}) == kept | {
        "aggregation": "fixed",
        "max_length": 8,
    }

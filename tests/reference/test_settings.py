from __future__ import annotations

import math
from typing import Any

import pytest

from loss_reference import ConfigError, DPOLoss, LossFunction, Setting


class Every(LossFunction):
    """One setting of each kind."""

    rate = Setting(0.1, above=0.0, most=1.0)
    free = Setting(1.0)
    kind = Setting("soft", choices=("soft", "hard"))
    flag = Setting(False)
    cap = Setting[float | None](None, least=0.0, below=5.0, optional=True)
    parts: Setting[Any] = Setting((), check=False, key="pieces")


def test_defaults_and_values() -> None:
    loss = Every()
    assert (loss.rate, loss.free, loss.kind, loss.flag, loss.cap, loss.parts) == (0.1, 1.0, "soft", False, None, ())
    given = {"rate": 1, "free": -2.5, "kind": "hard", "flag": True, "cap": 0.0, "pieces": [1]}
    loss = Every(given)
    assert (loss.rate, loss.free, loss.kind, loss.flag, loss.cap, loss.parts) == (1, -2.5, "hard", True, 0.0, [1])
    assert isinstance(Every.rate, Setting)


def test_config_is_a_copy() -> None:
    config = {"rate": 0.2}
    loss = Every(config)
    config["rate"] = 0.9
    assert loss.config == {"rate": 0.2}


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"rate": 0.0}, "rate=0.0 is out of range; expected a number above 0 and at most 1"),
    ({"rate": 1.5}, "rate=1.5 is out of range; expected a number above 0 and at most 1"),
    ({"rate": True}, "rate=True; expected a finite number, above 0 and at most 1"),
    ({"rate": "0.1"}, "rate='0.1'; expected a finite number, above 0 and at most 1"),
    ({"rate": None}, "rate=None; expected a finite number, above 0 and at most 1"),
    ({"free": math.nan}, "free=nan; expected a finite number"),
    ({"free": -math.inf}, "free=-inf; expected a finite number"),
    ({"kind": "sotf"}, "kind='sotf'; expected one of 'soft', 'hard'; did you mean 'soft'?"),
    ({"kind": 3}, "kind=3; expected one of 'soft', 'hard'"),
    ({"flag": 1}, "flag=1; expected true or false"),
    ({"cap": 5}, "cap=5 is out of range; expected a number at least 0 and below 5"),
    ({"rte": 0.1}, "unknown config key 'rte'; expected rate, free, kind, flag, cap, pieces; did you mean 'rate'?"),
    ({"parts": 0.1}, "unknown config key 'parts'; expected rate, free, kind, flag, cap, pieces"),
    ({"zzz": 0.1}, "unknown config key 'zzz'; expected rate, free, kind, flag, cap, pieces"),
    ({7: 0.1}, "unknown config key 7; expected rate, free, kind, flag, cap, pieces"),  # type: ignore[dict-item]
]


@pytest.mark.parametrize(("config", "message"), REFUSED)
def test_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        Every(config)
    assert str(error.value) == f"Every: {message}"


@pytest.mark.parametrize("config", ["beta=0.1", [("beta", 0.1)], 0.1])
def test_a_config_that_is_no_mapping(config: Any) -> None:
    with pytest.raises(ConfigError) as error:
        DPOLoss(config)
    expected = "expected a mapping such as {'beta': 0.1}"
    assert str(error.value) == f"DPOLoss: config is {type(config).__name__} {config!r}; {expected}"


def test_keys_that_address_a_loss_are_not_settings() -> None:
    assert DPOLoss({"type": "dpo", "weight": 2.0, "name": "first", "beta": 0.3}).beta == 0.3


def test_a_subclass_of_the_guide_may_read_keys_of_its_own() -> None:
    class CustomDPOLoss(DPOLoss):
        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.custom_weight = config.get("custom_weight", 1.0)

    loss = CustomDPOLoss({"custom_weight": 0.3, "beta": 0.5})
    assert (loss.custom_weight, loss.beta) == (0.3, 0.5)
    with pytest.raises(ConfigError, match="CustomDPOLoss: beta=-1 is out of range; expected a number above 0"):
        CustomDPOLoss({"beta": -1})


def test_a_class_that_lists_its_settings_is_strict_and_can_say_otherwise() -> None:
    class Listed(DPOLoss):
        extra = Setting(1.0)

    class Lenient(Listed):
        strict_config = False
        more = Setting(1.0)

    class Strict(LossFunction):
        strict_config = True

    with pytest.raises(ConfigError, match=r"Listed: unknown config key 'extar'.*did you mean 'extra'"):
        Listed({"extar": 2.0})
    assert Lenient({"anything": 2.0}).config == {"anything": 2.0}
    with pytest.raises(ConfigError, match=r"^Strict: unknown config key 'a'; expected no keys at all$"):
        Strict({"a": 1})
    assert LossFunction({"a": 1}).config == {"a": 1}


def test_an_inherited_setting_can_be_replaced() -> None:
    class Sharp(DPOLoss):
        beta = Setting(2.0, least=1.0)

    assert Sharp().beta == 2.0
    with pytest.raises(ConfigError, match=r"Sharp: beta=0\.5 is out of range; expected a number at least 1"):
        Sharp({"beta": 0.5})


def test_config_errors_are_value_errors() -> None:
    assert issubclass(ConfigError, ValueError)

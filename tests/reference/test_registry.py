from __future__ import annotations

from typing import Any

import pytest

from loss_reference import (
    ConfigError,
    DPOLoss,
    LossFunction,
    LossFunctionRegistry,
    NLLLoss,
    create_loss_function,
    registry,
)


def make(name: str = "MyLoss", module: str = "mymodule") -> type[LossFunction]:
    cls: type[LossFunction] = type(
        name, (LossFunction,), {"__module__": module, "__qualname__": name, "compute_loss": lambda self, b, o: None}
    )
    return cls


def test_register_create_and_names_as_in_the_guide() -> None:
    own = LossFunctionRegistry()

    @own.register("custom_loss")
    class CustomLoss(LossFunction):
        pass

    assert own.names() == ["custom_loss"]
    assert own.get("custom_loss") is CustomLoss
    assert own.create("custom_loss", {"any": 1}).config == {"any": 1}
    assert own.create("custom_loss").config == {}


def test_aliases_name_the_same_class() -> None:
    own = LossFunctionRegistry()
    cls = own.register("b", "a")(make())
    assert own.names() == ["a", "b"]
    assert own.get("a") is own.get("b") is cls


def test_registering_again_is_harmless_and_a_reload_replaces() -> None:
    own = LossFunctionRegistry()
    own.register("mine")(make())
    reloaded = own.register("mine")(make())
    assert own.get("mine") is reloaded


@pytest.mark.parametrize("names", [("mine",), ("other", "mine")])
def test_a_taken_name_is_refused(names: tuple[str, ...]) -> None:
    own = LossFunctionRegistry()
    first = own.register("mine")(make())
    with pytest.raises(ValueError, match="taken") as error:
        own.register(*names)(make("Another"))
    assert str(error.value) == (
        "loss name 'mine' is already taken by mymodule.MyLoss; mymodule.Another needs another name"
    )
    assert own.get("mine") is first


def test_a_refused_alias_leaves_nothing_behind() -> None:
    own = LossFunctionRegistry()
    own.register("mine")(make())
    with pytest.raises(ValueError, match="taken"):
        own.register("new", "mine")(make("Another"))
    assert own.names() == ["mine"]


@pytest.mark.parametrize("thing", [int, object])
def test_what_has_no_compute_loss_is_refused(thing: type) -> None:
    with pytest.raises(ValueError, match="cannot register") as error:
        LossFunctionRegistry().register("number")(thing)
    assert str(error.value) == (f"cannot register {thing!r} as 'number': it has no compute_loss(batch, model_outputs)")


def test_an_unknown_name_lists_the_others() -> None:
    own = LossFunctionRegistry()
    with pytest.raises(ValueError, match="Unknown") as error:
        own.create("dpo")
    assert str(error.value) == "Unknown loss function: 'dpo'. Registered: none."
    own.register("mine", "his")(make())
    with pytest.raises(ValueError, match="Unknown") as error:
        own.get("mime")
    assert str(error.value) == "Unknown loss function: 'mime'; did you mean 'mine'? Registered: his, mine."


def test_create_loss_function() -> None:
    assert type(create_loss_function()) is type(create_loss_function({})) is DPOLoss
    loss = create_loss_function({"type": "dpo", "beta": 0.5})
    assert isinstance(loss, DPOLoss)
    assert loss.beta == 0.5
    assert type(create_loss_function({"type": "sft"})) is NLLLoss


def test_create_loss_function_leaves_the_config_alone() -> None:
    config = {"type": "dpo", "beta": 0.5}
    create_loss_function(config)
    assert config == {"type": "dpo", "beta": 0.5}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("dpo", "config is str 'dpo'; expected a mapping such as {'type': 'dpo'}"),
        ([("type", "dpo")], "config is list [('type', 'dpo')]; expected a mapping such as {'type': 'dpo'}"),
    ],
)
def test_a_config_that_is_no_mapping(config: Any, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        create_loss_function(config)
    assert str(error.value) == message


def test_a_misspelt_type_does_not_give_dpo() -> None:
    listed = ", ".join(registry.names())
    with pytest.raises(ConfigError) as error:
        create_loss_function({"tpye": "nll"})
    assert str(error.value) == (
        f"config {{'tpye': 'nll'}} has no 'type'; expected one of {listed}; did you mean 'type' instead of 'tpye'?"
    )
    with pytest.raises(ConfigError) as error:
        create_loss_function({"beta": 0.1})
    assert str(error.value) == f"config {{'beta': 0.1}} has no 'type'; expected one of {listed}"


def test_an_unknown_type_and_setting_name_the_nearest() -> None:
    with pytest.raises(ValueError, match="Unknown loss function: 'DPOO'; did you mean 'dpo'\\? Registered: "):
        create_loss_function({"type": "DPOO"})
    with pytest.raises(ConfigError, match=r"DPOLoss: unknown config key 'bata'; .*; did you mean 'beta'\?"):
        create_loss_function({"type": "dpo", "bata": 0.1})


@pytest.mark.parametrize("name", ["custom", "multi_objective", "adaptive", "composed", "dynamic_weight"])
def test_the_composites_are_registered_and_construct_without_config(name: str) -> None:
    assert isinstance(registry.create(name), LossFunction)

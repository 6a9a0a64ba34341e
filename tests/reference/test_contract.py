from __future__ import annotations

import copy
import pickle
from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from loss_reference import Contract, ContractError, Field, Option

FULL = Contract(
    family="preference",
    lower_bound=0.0,
    direction={"chosen_scores": -1},
    options={"beta": Option(values=(0.1, 1.0), reduces_to={0.1: "dpo"})},
    fields={"scores": Field(role="logits", shape="B K", trainable=True)},
    exempt={"batch_permutation": "sorts over the batch on purpose"},
)


def test_nothing_is_required() -> None:
    contract = Contract()
    assert (contract.family, contract.empty, contract.output) == (None, "zero", "scalar")
    assert not any(contract.declares(fact) for fact in ("family", "empty", "direction", "coupled"))


def test_what_was_written_down_is_known() -> None:
    contract = Contract("preference", None, coupled=False, empty="zero", direction={}, level=None)
    declared = [
        fact for fact in ("family", "baseline", "coupled", "empty", "direction", "level") if contract.declares(fact)
    ]
    assert declared == ["family", "coupled", "empty", "direction"]


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_keep_everything(duplicate: Any) -> None:
    copied = duplicate(FULL)
    assert copied == FULL
    assert copied.declares("lower_bound")
    assert not copied.declares("empty")


def test_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        FULL.family = "value"  # type: ignore[misc]


FAMILIES = (
    "'supervised', 'preference', 'policy_gradient', 'value', 'reward', 'distillation', 'contrastive', 'auxiliary', "
    "'composite'"
)
REFUSED: list[tuple[dict[str, Any], str]] = [
    (
        {"family": "preferences"},
        f"Contract.family='preferences' is not known; expected one of {FAMILIES}; did you mean 'preference'?",
    ),
    (
        {"level": "tokens"},
        "Contract.level='tokens' is not known; expected one of 'token', 'sequence', 'pair', 'sample'; "
        "did you mean 'token'?",
    ),
    ({"normalizer": "x"}, "Contract.normalizer='x' is not known; expected one of 'global', 'local', 'sum'"),
    ({"empty": "one"}, "Contract.empty='one' is not known; expected one of 'zero', 'nan', 'error'"),
    (
        {"output": "term"},
        "Contract.output='term' is not known; expected one of 'scalar', 'terms'; did you mean 'terms'?",
    ),
    ({"lower_bound": 1.0, "upper_bound": 0.0}, "lower_bound=1.0 is above upper_bound=0.0"),
    ({"direction": {"beta": 2}}, "direction['beta']=2; expected +1 (the loss rises with it) or -1 (falls)"),
    (
        {"exempt": {"mask_value": " "}},
        "exempt['mask_value'] needs a reason: say why the loss breaks this law on purpose",
    ),
]


@pytest.mark.parametrize(("facts", "message"), REFUSED)
def test_refused(facts: dict[str, Any], message: str) -> None:
    with pytest.raises(ContractError) as error:
        Contract(**facts)
    assert str(error.value) == message


@pytest.mark.parametrize("shape", ["", "B", "B S-1", "B 4", "N 2 Q"])
def test_shapes(shape: str) -> None:
    assert Field("logits", shape).shape == shape


def test_a_field_that_cannot_be_meant() -> None:
    with pytest.raises(ContractError, match=r"Field.role='logit' is not known; .*; did you mean 'logits'\?"):
        Field("logit", "B")
    with pytest.raises(ContractError) as error:
        Field("logits", "B,S")
    assert str(error.value) == "Field.shape='B,S': 'B,S' is neither a letter nor a number; write it like 'B S' or 'B 4'"

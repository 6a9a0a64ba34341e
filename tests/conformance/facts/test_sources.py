"""Where a contract is found: beside the loss, on the instance, on its class, on the parents of the class."""

from pathlib import Path

from torch import nn

from loss_conformance.engine import Engine
from loss_conformance.facts.sources import contract_sources, declared_contract
from loss_conformance.subject.load import load_subject
from loss_reference import Contract, DPOLoss
from loss_reference.token_level import refine
from tests.conformance.facts.small_losses import TokenMean


class Grandparent(TokenMean):
    contract = Contract(family="supervised", level="token", lower_bound=0.0, direction={"rate": 1}, baseline="nll")


class Parent(Grandparent):
    contract = Contract(level="sequence", direction={"depth": -1})


class Child(Parent):
    pass


class TakenBack(Parent):
    """The constructor declares what its class does, less a direction."""

    def __init__(self, config=None):
        super().__init__(config)
        self.contract = refine(self.contract, direction={})


class Refined(Parent):
    """The constructor refines the contract of the class."""

    contract = Contract(level="pair", empty="zero")

    def __init__(self, config=None):
        super().__init__(config)
        self.contract = Contract(level="sample")


def origins(loss: object, contract: Contract | None = None) -> list[str]:
    return [origin for origin, _ in contract_sources(load_subject(loss, contract=contract))]


INTERFACE = "inherited from LossFunction"
"""The empty contract every loss has."""


def test_a_loss_without_a_contract_promises_nothing() -> None:
    assert origins(TokenMean) == [INTERFACE]
    assert declared_contract(load_subject(TokenMean)) == Contract()


def test_parents_are_asked_from_the_nearest_on() -> None:
    assert origins(Child) == ["inherited from Parent", "inherited from Grandparent", INTERFACE]
    found = declared_contract(load_subject(Child))
    assert (found.family, found.level, found.lower_bound) == ("supervised", "sequence", 0.0)
    assert found.direction == {"depth": -1, "rate": 1}
    assert found.baseline is None


def test_the_instance_speaks_before_its_class() -> None:
    found = declared_contract(load_subject(Refined))
    assert (found.level, found.empty, found.family) == ("sample", "zero", "supervised")
    assert origins(Refined) == ["declared", "declared", *origins(Child)[:-1], INTERFACE]


def test_an_instance_that_declares_what_its_class_does_takes_entries_back() -> None:
    assert declared_contract(load_subject(Parent)).direction == {"depth": -1, "rate": 1}
    assert declared_contract(load_subject(TakenBack)).direction == {"rate": 1}  # of a parent that declares more
    assert declared_contract(load_subject(DPOLoss, config={"label_smoothing": 0.1})).direction == {}
    assert declared_contract(load_subject(DPOLoss)).direction == {"chosen_scores": -1, "rejected_scores": +1}


def test_a_contract_given_beside_the_loss_wins() -> None:
    found = declared_contract(load_subject(Refined, contract=Contract(level="token", direction={"depth": 1})))
    assert found.level == "token"
    assert found.direction == {"depth": 1, "rate": 1}


def test_a_contract_given_by_name_wins_too(tmp_path: Path) -> None:
    (tmp_path / "promises.py").write_text(
        "from loss_reference import Contract\nmy_contract = Contract(family='value', level='token')\n"
    )
    found = declared_contract(load_subject(Grandparent, contract="promises.my_contract", root=tmp_path))
    assert (found.family, found.level, found.lower_bound) == ("value", "token", 0.0)


def test_a_subclass_of_a_reference_loss_inherits_all_but_its_baseline() -> None:
    class Mine(DPOLoss):
        pass

    subject = load_subject(Mine)
    inherited = declared_contract(subject)
    assert (inherited.family, inherited.level, inherited.normalizer) == ("preference", "pair", "global")
    assert inherited.baseline is None
    assert Engine(subject).facts()[0] == "family = 'preference' (inherited from DPOLoss)"


def test_a_torch_loss_is_known() -> None:
    assert origins(nn.MSELoss) == ["known of torch.nn.MSELoss"]
    assert declared_contract(load_subject(nn.CrossEntropyLoss)).empty == "nan"
    assert declared_contract(load_subject(nn.MSELoss(reduction="sum"))).normalizer == "sum"

"""Configs and contracts as text and as files."""

import pytest

from loss_conformance.subject.load import load_subject
from loss_conformance.subject.subject import TargetError
from loss_reference import Contract, DPOLoss, Field, Option


def refused(**how):
    with pytest.raises(TargetError) as caught:
        load_subject(DPOLoss, **how)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("c.json", '{"beta": 0.3}'),
        ("c.toml", "beta = 0.3\n"),
        ("c.yaml", "beta: 0.3\n"),
        ("c.yml", "beta: 0.3\n"),
    ],
)
def test_files(write, tmp_path, name, text):
    path = write(name, text)
    assert load_subject(DPOLoss, config=name, root=tmp_path).config == {"beta": 0.3}
    assert load_subject(DPOLoss, config=path, root=tmp_path).loss.beta == 0.3
    assert load_subject(DPOLoss, config=str(path)).loss.beta == 0.3


def test_text_and_mapping(write, tmp_path):
    assert load_subject(DPOLoss, config=' {"beta": 0.3}').loss.beta == 0.3
    assert load_subject(DPOLoss, config={"beta": 0.3}).loss.beta == 0.3
    write("empty.yaml", "")
    assert load_subject(DPOLoss, config="empty.yaml", root=tmp_path).config == {}


def test_bad_json():
    assert refused(config='{"beta": 0.1\n "x": 2}') == (
        "--loss-config: the given text is not JSON: Expecting ',' delimiter at line 2, column 2\n     \"x\": 2}\n     ^"
    )


def test_bad_files(write, tmp_path):
    write("dpo.toml", "beta = \n")
    write("list.json", "[1, 2]")
    write("numbers.yaml", "1: 2\n")
    assert refused(config="dp.toml", root=tmp_path) == (
        f"--loss-config dp.toml: no such file in '{tmp_path}'; did you mean 'dpo.toml'?"
    )
    assert refused(config="sub/dpo.toml", root=tmp_path) == (
        f"--loss-config sub/dpo.toml: no such file; there is no folder '{tmp_path}/sub'"
    )
    assert refused(config="dpo.ini", root=tmp_path) == (
        "--loss-config dpo.ini: expected JSON text such as '{\"beta\": 0.1}', "
        "or a file that ends in .json, .toml, .yaml, .yml"
    )
    assert refused(config="dpo.toml", root=tmp_path) == (
        "--loss-config: dpo.toml cannot be parsed: Invalid value (at line 1, column 8)"
    )
    assert refused(config="list.json", root=tmp_path) == (
        '--loss-config: list.json holds a list; expected a mapping such as {"beta": 0.1}'
    )
    assert refused(config="numbers.yaml", root=tmp_path) == (
        "--loss-config: numbers.yaml has the key 1; expected names as keys"
    )
    assert refused(config=3) == "config is int 3; expected a mapping such as {'beta': 0.1}"


CONTRACT = """
family: preference
lower_bound: 0.0
exempt: {swap: sorts on purpose}
fields: {my_scores: {role: logits, shape: B K, trainable: true}}
options: {beta: {values: [0.0, 1.0], reduces_to: {"0.0": dpo}}}
"""


def test_contract_files_and_objects(write, tmp_path):
    write("contract.yaml", CONTRACT)
    contract = load_subject(DPOLoss, contract="contract.yaml", root=tmp_path).contract
    assert contract == Contract(
        family="preference",
        lower_bound=0.0,
        exempt={"swap": "sorts on purpose"},
        fields={"my_scores": Field("logits", "B K", trainable=True)},
        options={"beta": Option(values=(0.0, 1.0), reduces_to={0.0: "dpo"})},
    )
    assert contract.declares("lower_bound")
    assert not contract.declares("empty")
    write("promise.py", "from loss_reference import Contract\nit = Contract(family='value')\ndef make(): return it\n")
    for target in ("promise.it", "promise.make", "promise.py:it"):
        assert load_subject(DPOLoss, contract=target, root=tmp_path).contract == Contract(family="value")
    assert load_subject(DPOLoss, contract={"family": "value"}).contract == Contract(family="value")
    assert load_subject(DPOLoss, contract=Contract()).contract == Contract()
    assert load_subject(DPOLoss).contract is None


def test_bad_contracts(write, tmp_path):
    write("other.py", "it = 3\ndef fails(): raise ValueError('no')\n")
    assert refused(contract='{"famly": "value"}').startswith(
        "--loss-contract: the given text: unknown 'famly'; expected family, "
    )
    assert refused(contract='{"famly": "value"}').endswith("; did you mean 'family'?")
    assert refused(contract='{"family": "valu"}').startswith(
        "--loss-contract: the given text: Contract.family='valu' is not known"
    )
    assert refused(contract={"fields": {"x": {"role": "logits", "shapes": "B"}}}) == (
        "--loss-contract: the given mapping: fields.x: unknown 'shapes'; expected role, shape, trainable, speaks_of; "
        "did you mean 'shape'?"
    )
    assert refused(contract={"fields": {"x": "logits"}}) == (
        "--loss-contract: the given mapping: fields.x is 'logits'; expected a mapping"
    )
    assert refused(contract="other.it", root=tmp_path) == (
        "--loss-contract other.it is a int; expected a Contract or a function that returns one"
    )
    assert refused(contract="other.fails", root=tmp_path) == (
        "--loss-contract other.fails: calling it raised ValueError: no"
    )

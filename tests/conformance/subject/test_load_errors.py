"""What is said when a target cannot be loaded: exact words, the user's own traceback, nothing of ours."""

import pytest

from loss_conformance.subject.load import load_subject
from loss_conformance.subject.subject import TargetError

LOSSES = """
import torch
from torch import nn
from loss_reference import LossFunction, Setting

beta = 3

class MyLoss(LossFunction):
    beta = Setting(0.1, above=0.0)
    def compute_loss(self, batch, model_outputs):
        return model_outputs["logits"].mean()

class Empty(LossFunction):
    pass

class Plain:
    pass

class Focal(nn.Module):
    def __init__(self, alpha, gamma):
        super().__init__()
    def forward(self, input, target):
        return input.mean()

class Held(LossFunction):
    def __init__(self, config, model):
        super().__init__(config)
    def compute_loss(self, batch, model_outputs):
        return model_outputs["logits"].mean()

class Raises(nn.Module):
    def __init__(self):
        super().__init__()
        self.helper()
    def helper(self):
        raise RuntimeError("no GPU here")
    def forward(self, input, target):
        return input.mean()

class Keyed(LossFunction):
    def __init__(self, config):
        super().__init__(config)
        self.alpha = config["alpha"]
    def compute_loss(self, batch, model_outputs):
        return model_outputs["logits"].mean()

class Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x

def my_loss(input, target, gamma=2.0):
    return input.mean()

def settings():
    return {"beta": 0.1}

def broken_factory():
    raise ValueError("not today")

def needs_beta(input, target, beta):
    return input.mean()
"""


@pytest.fixture
def root(write, tmp_path):
    write("mylosses.py", LOSSES)
    return tmp_path


def refused(target, root, **how):
    with pytest.raises(TargetError) as caught:
        load_subject(target, root=root, **how)
    return caught.value


DEFINED = "  losses defined in mylosses: MyLoss, Focal, Held, Raises, Keyed, Double, my_loss"


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (
            "mylossess.MyLoss",
            "mylossess.MyLoss: there is no module 'mylossess' in '{root}' or among the installed packages; "
            "did you mean 'mylosses'?",
        ),
        (
            "training.MyLoss",
            "training.MyLoss: there is no module 'training' in '{root}' or among the installed packages\n"
            "  modules there: mylosses",
        ),
        (
            "nowhere:MyLoss",
            "nowhere:MyLoss: there is no module 'nowhere' in '{root}' or among the installed packages\n"
            "  modules there: mylosses",
        ),
        ("mylosses.MyLos", f"mylosses.MyLos: module 'mylosses' has no 'MyLos'; did you mean 'MyLoss'?\n{DEFINED}"),
        (
            "mylosses.MyLoss.forwards",
            f"mylosses.MyLoss.forwards: mylosses.MyLoss has no 'forwards'; did you mean 'forward'?\n{DEFINED}",
        ),
        ("mylosses", f"mylosses is a module; name the loss in it\n{DEFINED}"),
        ("mylosses.py", f"mylosses.py is a file; name the loss in it, as in mylosses.py:MyLoss\n{DEFINED}"),
        (
            "mylosse.py:MyLoss",
            "mylosse.py:MyLoss: there is no file 'mylosse.py' in '{root}'; did you mean 'mylosses.py'?",
        ),
        (
            "sub/mylosses.py:MyLoss",
            "sub/mylosses.py:MyLoss: there is no file 'mylosses.py'; there is no folder '{root}/sub'",
        ),
        ("my losses", "'my losses' is not a target; write package.module.Name, module:Name or path/to/file.py:Name"),
        (
            "mylosses.beta",
            "mylosses.beta is an int (3), no loss; expected a class, an object or a function that computes a loss, "
            "or a factory of one",
        ),
        ("mylosses.Empty", "mylosses.Empty does not define compute_loss(self, batch, model_outputs)"),
        (
            "mylosses.Plain",
            "mylosses.Plain is a class without compute_loss, forward or __call__, no loss; "
            "define compute_loss(self, batch, model_outputs)",
        ),
        (
            "mylosses.Double",
            "mylosses.Double is a torch.autograd.Function, which is not called itself; "
            "name a function that calls its apply:\n"
            "    def double(input, target):\n"
            "        return Double.apply(input, target)",
        ),
        (
            "mylosses.Focal",
            "mylosses.Focal cannot be constructed without alpha and gamma; either give the config\n"
            '    --loss-config \'{"alpha": ..., "gamma": ...}\'\n'
            "or name a factory instead\n"
            "    def make_loss():\n"
            "        return Focal(alpha=..., gamma=...)",
        ),
        (
            "mylosses.Held",
            "mylosses.Held cannot be constructed without model; name a factory instead\n"
            "    def make_loss():\n"
            "        return Held({}, model=...)",
        ),
        (
            "mylosses.settings",
            "mylosses.settings takes no tensors, so it was called as a factory, and returned a dict ({'beta': 0.1}) "
            "instead of a loss",
        ),
    ],
)
def test_messages(root, target, message):
    assert str(refused(target, root)) == message.replace("{root}", str(root))


def test_module_in_another_folder_is_found(write, tmp_path):
    write("src/focal.py", "def focal(input, target): return input.mean()\n")
    assert str(refused("focal.focal_loss", tmp_path)) == (
        f"focal.focal_loss: there is no module 'focal' in '{tmp_path}' or among the installed packages; "
        "there is a file src/focal.py: write src/focal.py:focal_loss"
    )


def test_module_missing_inside_a_package(write, tmp_path):
    write("packed/__init__.py", "")
    write("packed/dpo.py", "")
    assert str(refused("packed.dpoo.Loss", tmp_path)) == (
        "packed.dpoo.Loss: module 'packed' has no 'dpoo'; did you mean 'dpo'?\n  losses defined in packed: none"
    )
    assert str(refused("packed.dpoo:Loss", tmp_path)) == (
        f"packed.dpoo:Loss: there is no module 'packed.dpoo' in '{tmp_path / 'packed'}' or among the installed "
        "packages; did you mean 'dpo'?"
    )


def test_some_arguments_given(root):
    assert str(refused("mylosses.Focal", root, config={"alpha": 0.25})) == (
        "mylosses.Focal cannot be constructed without gamma; either give the config\n"
        '    --loss-config \'{"alpha": 0.25, "gamma": ...}\'\n'
        "or name a factory instead\n"
        "    def make_loss():\n"
        "        return Focal(alpha=..., gamma=...)"
    )


def test_unknown_argument(root):
    assert str(refused("mylosses.Focal", root, config={"alpha": 1, "gamma": 2, "gama": 2})) == (
        "mylosses.Focal takes no argument 'gama'; expected alpha, gamma; did you mean 'gamma'?"
    )
    assert str(refused("mylosses.my_loss", root, config={"gama": 2})) == (
        "mylosses.my_loss takes no argument 'gama'; expected input, target, gamma; did you mean 'gamma'?"
    )


def test_config_error_passes_through(root):
    assert str(refused("mylosses.MyLoss", root, config={"betta": 1.0})) == (
        "MyLoss: unknown config key 'betta'; expected beta; did you mean 'beta'?"
    )
    assert str(refused("mylosses.MyLoss", root, config={"beta": -1.0})) == (
        "MyLoss: beta=-1.0 is out of range; expected a number above 0"
    )


def test_constructor_raises(root):
    error = refused("mylosses.Raises", root)
    assert str(error) == "mylosses.Raises: constructing it raised RuntimeError: no GPU here"
    assert error.traceback.splitlines() == [
        f'  File "{root}/mylosses.py", line 34, in __init__',
        "    self.helper()",
        f'  File "{root}/mylosses.py", line 36, in helper',
        '    raise RuntimeError("no GPU here")',
        "RuntimeError: no GPU here",
    ]


def test_factory_raises(root):
    error = refused("mylosses.broken_factory", root)
    assert str(error) == "mylosses.broken_factory: calling it raised ValueError: not today"
    assert "broken_factory" in error.traceback


def test_missing_config_key(root):
    error = refused("mylosses.Keyed", root, config={"beta": 1})
    assert str(error) == (
        "mylosses.Keyed: constructing it raised KeyError: 'alpha'\n"
        "the config has no 'alpha'; give it:\n"
        '    --loss-config \'{"beta": 1, "alpha": ...}\''
    )


def test_config_for_an_instance(root, write):
    write("made.py", "from torch import nn\nloss = nn.MSELoss()\n")
    assert str(refused("made.loss", root, config={"a": 1})) == (
        "made.loss is already constructed, so the config {'a': 1} would not reach it"
    )


def test_import_raises(write, tmp_path):
    path = write("fails.py", "import json\n\ndef start():\n    json.loads('nope')\n\nstart()\n")
    error = refused("fails.MyLoss", tmp_path)
    assert str(error) == (
        "fails.MyLoss: importing fails raised JSONDecodeError: Expecting value: line 1 column 1 (char 0)"
    )
    assert error.traceback.splitlines() == [
        f'  File "{path}", line 6, in <module>',
        "    start()",
        f'  File "{path}", line 4, in start',
        "    json.loads('nope')",
        "json.decoder.JSONDecodeError: Expecting value: line 1 column 1 (char 0)",
    ]
    assert "loss_conformance" not in error.traceback


def test_syntax_error(write, tmp_path):
    path = write("typo.py", "def loss(input, target)\n    return input\n")
    error = refused("typo.py:loss", tmp_path)
    assert str(error) == "typo.py:loss: importing typo.py raised SyntaxError: expected ':' (typo.py, line 1)"
    assert error.traceback.splitlines()[0] == f'  File "{path}", line 1'
    assert "loss_conformance" not in error.traceback


def test_missing_dependency_is_not_a_missing_module(write, tmp_path):
    write("dependent.py", "import a_package_nobody_has\n")
    error = refused("dependent.MyLoss", tmp_path)
    assert str(error) == (
        "dependent.MyLoss: importing dependent raised ModuleNotFoundError: No module named 'a_package_nobody_has'"
    )
    assert error.traceback.startswith(f'  File "{tmp_path}/dependent.py", line 1')


def test_system_exit(write, tmp_path):
    write("script.py", "import argparse\nimport sys\nsys.exit(2)\n")
    error = refused("script.MyLoss", tmp_path)
    assert str(error) == (
        "script.MyLoss: importing script ended the program (SystemExit: 2); "
        'put what runs there under `if __name__ == "__main__":`'
    )
    assert error.traceback.splitlines()[-1] == "SystemExit: 2"


def test_failed_import_is_tried_again(write, tmp_path):
    write("again.py", "raise RuntimeError\n")
    refused("again.py:loss", tmp_path)
    write("again.py", "def loss(input, target): return input.mean()  # now it works\n")
    assert load_subject("again.py:loss", root=tmp_path).loss.__name__ == "loss"

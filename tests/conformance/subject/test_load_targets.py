"""What a target may be, and what is made of it."""

import functools
import pickle
import sys

import pytest
import torch
from torch import nn

from loss_conformance.subject.by_name import ByNameProtocol
from loss_conformance.subject.interface import InterfaceProtocol, MappingsProtocol
from loss_conformance.subject.load import load_subject
from loss_reference import Contract, DPOLoss, LossFunction

LOSSES = """
import torch
from torch import nn
from loss_reference import LossFunction

RAN = []

class MyLoss(LossFunction):
    def __init__(self, config=None):
        super().__init__(config)
        self.beta = self.config.get("beta", 0.1)

    def compute_loss(self, batch, model_outputs):
        scale = self.config.get("scale", 2.0)
        return self.beta * scale * model_outputs["logits"].square().mean()

    class Inner(nn.MSELoss):
        pass

    @staticmethod
    def of_tensors(input, target):
        return (input - target).square().mean()

class Required(nn.Module):
    def __init__(self, alpha, gamma=2.0, hard=False):
        super().__init__()
        self.alpha, self.gamma = alpha, gamma

    def forward(self, input, target):
        return self.alpha * nn.functional.cross_entropy(input, target)

instance = MyLoss({"beta": 0.7})

def make():
    return MyLoss({"beta": 0.4})

def make_with(beta=0.2):
    return MyLoss({"beta": beta})

def make_from(config):
    return MyLoss(config)

def plain(input, target, gamma=2.0):
    return gamma * (input - target).square().mean()

def of_mappings(batch, model_outputs):
    return model_outputs["logits"].square().mean()
"""


@pytest.fixture
def root(write, tmp_path):
    write("mylosses.py", LOSSES)
    return tmp_path


@pytest.mark.parametrize(
    ("target", "kind"),
    [
        ("mylosses.MyLoss", "MyLoss"),
        ("mylosses:MyLoss", "MyLoss"),
        ("mylosses.py:MyLoss", "MyLoss"),
        ("mylosses.MyLoss.Inner", "Inner"),
        ("mylosses:MyLoss.Inner", "Inner"),
        ("mylosses.py:MyLoss.Inner", "Inner"),
        ("mylosses.instance", "MyLoss"),
        ("mylosses.make", "MyLoss"),
        ("mylosses.plain", "function"),
        ("mylosses.MyLoss.of_tensors", "function"),
        ("torch.nn.MSELoss", "MSELoss"),
        ("loss_reference.DPOLoss", "DPOLoss"),
    ],
)
def test_every_way_to_name_a_loss(root, target, kind):
    subject = load_subject(target, root=root)
    assert type(subject.loss).__name__ == kind
    assert subject.target == target


def test_protocols(root):
    assert type(load_subject("mylosses.MyLoss", root=root).protocol) is InterfaceProtocol
    assert type(load_subject("mylosses.of_mappings", root=root).protocol) is MappingsProtocol
    assert type(load_subject("mylosses.plain", root=root).protocol) is ByNameProtocol


def test_function_of_mappings_is_fed(root):
    subject = load_subject("mylosses.of_mappings", root=root)
    (route,) = subject.protocol.routes(subject.loss, Contract())
    assert [slot.key for slot in route.slots] == ['model_outputs["logits"]']


def test_settings_are_found_by_listening_to_the_constructor_and_the_call(root):
    subject = load_subject("mylosses.MyLoss", root=root)
    assert subject.settings == {"beta": 0.1, "scale": 2.0}
    assert type(subject.loss.config) is dict
    assert "config" not in vars(type(subject.loss))


def test_settings_hold_the_values_in_force(root):
    subject = load_subject("mylosses.MyLoss", config={"beta": 0.5}, root=root)
    assert subject.settings == {"beta": 0.5, "scale": 2.0}
    assert subject.loss.config == {"beta": 0.5}
    assert subject.config == {"beta": 0.5}


def test_rebuild_changes_some_settings_and_keeps_the_others(root):
    subject = load_subject("mylosses.MyLoss", config='{"beta": 0.5}', root=root)
    other = subject.rebuild({"scale": 3.0})
    assert (other.beta, other.config) == (0.5, {"beta": 0.5, "scale": 3.0})
    assert subject.loss.config == {"beta": 0.5}


def test_declared_settings():
    subject = load_subject(DPOLoss, config={"beta": 0.3})
    assert subject.settings == {
        "beta": 0.3,
        "label_smoothing": 0.0,
        "average_log_probs": False,
        "pair_layout": "interleaved",
        "rolled_reference": False,
    }
    assert subject.rebuild({"beta": 1.0}).beta == 1.0


def test_keyword_settings(root):
    subject = load_subject("mylosses.Required", config={"alpha": 0.25}, root=root)
    assert subject.settings == {"alpha": 0.25, "gamma": 2.0, "hard": False}
    assert subject.rebuild({"gamma": 1.0}).gamma == 1.0
    assert subject.rebuild({"gamma": 1.0}).alpha == 0.25


def test_config_reaches_a_function(root):
    subject = load_subject("mylosses.plain", config={"gamma": 5.0}, root=root)
    assert subject.loss(torch.ones(2), torch.zeros(2)) == 5.0
    assert subject.settings == {"gamma": 5.0}
    assert subject.rebuild({"gamma": 1.0})(torch.ones(2), torch.zeros(2)) == 1.0


def test_factories(root):
    assert load_subject("mylosses.make", root=root).loss.beta == 0.4
    assert load_subject("mylosses.make_with", root=root).loss.beta == 0.2
    assert load_subject("mylosses.make_with", config={"beta": 0.9}, root=root).loss.beta == 0.9
    subject = load_subject("mylosses.make_from", config={"beta": 0.8}, root=root)
    assert subject.loss.beta == 0.8
    assert subject.settings == {"beta": 0.8, "scale": 2.0}


def test_objects():
    class Local(LossFunction):
        def compute_loss(self, batch, model_outputs):
            return model_outputs["logits"].mean()

    assert type(load_subject(Local).loss) is Local
    assert load_subject(Local).target.endswith("test_objects.<locals>.Local")
    instance = nn.MSELoss()
    assert load_subject(instance).loss is instance
    assert load_subject(instance).rebuild is None
    assert load_subject(instance).target == "torch.nn.modules.loss.MSELoss"
    bound = functools.partial(nn.functional.cross_entropy, label_smoothing=0.1)
    assert load_subject(bound).loss is bound
    assert load_subject(lambda: nn.MSELoss()).loss.reduction == "mean"


def test_loading_twice_imports_once(root):
    one = load_subject("mylosses.MyLoss", root=root)
    for target in ("mylosses.py:MyLoss", "mylosses:MyLoss", "mylosses.MyLoss"):
        assert type(load_subject(target, root=root).loss) is type(one.loss)
    assert pickle.loads(pickle.dumps(one.loss)).beta == one.loss.beta


def test_file_inside_a_package_keeps_its_relative_imports(write, tmp_path):
    write("pack/__init__.py", "")
    write("pack/sub/__init__.py", "")
    write("pack/sub/base.py", "from torch import nn\nclass Base(nn.MSELoss): pass\n")
    write("pack/sub/losses.py", "from .base import Base\nclass Mine(Base): pass\n")
    from_file = load_subject("pack/sub/losses.py:Mine", root=tmp_path)
    assert type(from_file.loss).__module__ == "pack.sub.losses"
    assert type(load_subject("pack.sub.losses.Mine", root=tmp_path).loss) is type(from_file.loss)


def test_file_named_like_another_module(write, tmp_path):
    write("json.py", "from torch import nn\nclass Mine(nn.MSELoss): pass\n")
    loss = load_subject("json.py:Mine", root=tmp_path).loss
    assert type(loss).__module__.startswith("json_")
    assert type(load_subject("json.py:Mine", root=tmp_path).loss) is type(loss)
    assert pickle.loads(pickle.dumps(loss)) is not None
    del sys.modules[type(loss).__module__]


def test_package_that_exports_a_name_of_one_of_its_modules(write, tmp_path):
    write("twice/__init__.py", "from .focal import focal\n")
    write(
        "twice/focal.py",
        "def focal(input, target): return input.mean()\ndef other(input, target): return input.sum()\n",
    )
    assert load_subject("twice.focal", root=tmp_path).loss.__name__ == "focal"
    assert load_subject("twice.focal.other", root=tmp_path).loss.__name__ == "other"


def test_sys_path_is_put_back(root):
    before = list(sys.path)
    load_subject("mylosses.MyLoss", root=root)
    load_subject("mylosses.py:MyLoss", root=root)
    assert sys.path == before


def test_listening_leaves_no_trace(root, capsys):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    load_subject("mylosses.MyLoss", root=root)
    assert torch.equal(torch.rand(2), expected)
    assert capsys.readouterr().out == ""


def test_constructor_that_keeps_the_config_itself(write, tmp_path):
    write(
        "keeps.py",
        "class Keeps:\n"
        "    def __init__(self, config):\n"
        "        self.config = config or {}\n"
        "        self.alpha = self.config['alpha'] if 'alpha' in self.config else 0.5\n"
        "        self.margin = self.config.pop('margin', 1)\n"
        "    def __call__(self, input, target):\n"
        "        return input.sum() * self.config.get('gamma', 2.0)\n",
    )
    subject = load_subject("keeps.Keeps", config={"alpha": 0.1}, root=tmp_path)
    assert subject.settings == {"alpha": 0.1, "margin": 1, "gamma": 2.0}
    assert subject.loss.config == {"alpha": 0.1}
    assert type(subject.loss.config) is dict


def test_random_weights_are_the_same_in_every_loss_of_a_kind():
    class Projected(nn.Module):
        def __init__(self, scale=1.0):
            super().__init__()
            self.weight, self.scale = nn.Parameter(torch.randn(3)), scale

        def forward(self, embeddings):
            return self.scale * (embeddings * self.weight).sum()

    before = torch.random.get_rng_state()
    subject = load_subject(Projected)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(3)
    assert torch.equal(load_subject(Projected).loss.weight, subject.loss.weight)
    other = subject.rebuild({"scale": 2.0})
    assert other.scale == 2.0
    assert torch.equal(other.weight, subject.loss.weight)

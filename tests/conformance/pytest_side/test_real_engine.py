"""The whole way, from a file somebody wrote to what they read, with nothing faked."""

import shlex

import pytest
import torch._dynamo
import torch._inductor.test_operators  # noqa: F401 - see below

# A pytest run inside this one forgets the modules it imported, and torch cannot load these a second time.

MODULE = """
from loss_reference import LossFunction


class Broken(LossFunction):
    def compute_loss(self, batch, model_outputs):
        mask = batch["token_mask"][:, 1:] * batch["sample_mask"][:, None]
        return -model_outputs["next_token_logprobs"].mean() * (mask.sum() > 0)


class Sound(LossFunction):
    def compute_loss(self, batch, model_outputs):
        mask = batch["token_mask"][:, 1:] * batch["sample_mask"][:, None]
        total = batch.get("global_valid_toks", mask.sum()).clamp(min=1)
        return -(model_outputs["next_token_logprobs"].where(mask != 0, 0.0) * mask).sum() / total


class Scaled(Sound):
    def __init__(self, scale):
        super().__init__()


class Unknown(LossFunction):
    def compute_loss(self, batch, model_outputs):
        return (batch["my_scores"] * model_outputs["next_token_logprobs"]).mean()


class Exits(Sound):
    def compute_loss(self, batch, model_outputs):
        raise SystemExit(0)


NUMBER = 3
"""


@pytest.fixture
def folder(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makepyfile(mylosses=MODULE)
    return pytester


def run(folder: pytest.Pytester, target: str, *arguments: str) -> pytest.RunResult:
    return folder.runpytest_inprocess("--loss-conformance", target, "--loss-profile=quick", *arguments)


def said(result: pytest.RunResult) -> list[str]:
    return [line for line in result.errlines if line]


def test_a_sound_loss_is_green_and_leaves_nothing(folder: pytest.Pytester) -> None:
    result = run(folder, "mylosses.Sound", "-p", "no:cacheprovider", "-W", "error")
    assert result.ret == 0
    left = {path.name for path in folder.path.iterdir()} - {"__pycache__", "mylosses.py"}
    assert not left


def test_a_broken_loss_is_told_and_the_reproduce_line_works_when_pasted(folder: pytest.Pytester) -> None:
    result = run(folder, "mylosses.Broken")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["mylosses.Broken::mask_value FAILED"])
    pasted = next(line for line in result.outlines if "Reproduce  " in line).removeprefix("  Reproduce").strip()
    assert pasted == "pytest --loss-conformance mylosses.Broken -k mask_value --loss-profile quick --loss-seed 0"
    again = folder.runpytest_inprocess(*shlex.split(pasted)[1:])
    assert again.ret == 1
    assert _block(again) == _block(result)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("mylosses.Sond", "ERROR: mylosses.Sond: module 'mylosses' has no 'Sond'; did you mean 'Sound'?"),
        ("mylosses.Scaled", "ERROR: mylosses.Scaled cannot be constructed without scale; *"),
        ("mylosses.NUMBER", "ERROR: *NUMBER*int*"),
        ("nowhere_at_all.Loss", "ERROR: nowhere_at_all.Loss: there is no module 'nowhere_at_all' *"),
    ],
)
def test_a_target_that_is_no_loss(folder: pytest.Pytester, target: str, message: str) -> None:
    result = run(folder, target)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([message])
    assert result.parseoutcomes() == {}


def test_a_module_that_raises_shows_its_own_frames_only(folder: pytest.Pytester) -> None:
    folder.makepyfile(raises_early="def half(x):\n    return 1 / x\n\nhalf(0)\n")
    result = run(folder, "raises_early.Loss")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    text = "\n".join(said(result))
    assert "return 1 / x" in text
    assert "ZeroDivisionError" in text
    assert "loss_conformance" not in text
    assert "importlib" not in text


@pytest.mark.parametrize("config", ["{beta: 1}", "nowhere.json", "[1]"])
def test_a_malformed_config(folder: pytest.Pytester, config: str) -> None:
    result = run(folder, "mylosses.Sound", "--loss-config", config)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert said(result)[0].startswith("ERROR: --loss-config")


def test_an_unknown_baseline(folder: pytest.Pytester) -> None:
    result = run(folder, "mylosses.Sound", "--loss-baseline", "dpoo")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert said(result)[0].startswith("ERROR: --loss-baseline dpoo: ")
    assert "did you mean 'dpo'?" in said(result)[0]


def test_an_example_that_is_no_function(folder: pytest.Pytester) -> None:
    result = run(folder, "mylosses.Sound", "--loss-example", "mylosses.NUMBER")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert said(result) == [
        "ERROR: --loss-example mylosses.NUMBER: expected a function that returns (batch, model_outputs)"
    ]


def test_an_unknown_field_is_named_once_with_the_line_to_write(folder: pytest.Pytester) -> None:
    result = run(folder, "mylosses.Unknown")
    assert result.ret == 1
    assert result.parseoutcomes()["failed"] == 1
    result.stdout.fnmatch_lines(
        [
            "mylosses.Unknown::scalar_output ERROR",
            "*batch[[]'my_scores'[]]*",
            '*contract = Contract(fields={"my_scores": Field(*',
            "mylosses.Unknown: nothing was tested: the checks could not be run",
        ]
    )


def test_a_loss_that_exits_does_not_end_the_run(folder: pytest.Pytester) -> None:
    result = run(folder, "mylosses.Exits")
    assert result.ret == 1
    assert "sys.exit" in result.stdout.str() or "SystemExit" in result.stdout.str()


def test_a_loss_to_which_nothing_selected_applies_is_not_green(folder: pytest.Pytester) -> None:
    result = run(folder, "mylosses.Sound", "-k", "baseline")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["nothing was tested: none of the checks that ran applies"])


def _block(result: pytest.RunResult) -> list[str]:
    lines = result.outlines
    start = lines.index("mylosses.Broken::mask_value FAILED")
    return lines[start : lines.index("                   python .loss-conformance/mask_value.py") + 1]

"""What a run prints, whole."""

import re

import pytest

FULL = """\
loss-conformance: mymodule.MaskBug (profile standard, seed 0)
collected 6 items
mymodule.MaskBug: Loss, called through the interface
profile standard, seed 0

mymodule.MaskBug ..Fsax                                                  [100%]

=================================== FAILURES ===================================
__________________________________ mask_value __________________________________
mymodule.MaskBug::mask_value FAILED
  L(batch) must not change when only content at masked positions changes.
    smallest case   B=2 S=3, token_mask=[[0,1,0],[0,1,1]]   (seed 12, shrunk in 9 steps)
    changed         model_outputs["next_token_logprobs"][0,1]: -1.0 → -3.0   (masked)
    got  0.7413     wanted 0.6931 ± 2e-7 (8 ulp float32, 3 terms)
  Likely cause     the mask multiplies after the mean, or one operand of a difference is unmasked.
  Fix              where(mask, x, 0) before exp/log; divide by mask.sum().clamp(min=1).
  Seen in          volcengine/verl#2377
  Reproduce        pytest --loss-conformance mymodule.MaskBug -k mask_value --loss-seed 12
                   python .loss-conformance/mask_value.py
=============================== loss conformance ===============================
mymodule.MaskBug: 5 applicable, 2 passed, 1 failed, 1 expected failure, 1 advice; 1 not applicable
  not applicable    lower_bound is not known: lower_bound
  expected failure  sorts on purpose: batch_order
  guessed           level = 'pair' (inferred: it reads rows in pairs)
  warning           the clip region was never entered

mymodule.MaskBug::host_sync ADVICE
  No host synchronisation.
    got  1 call of .item()     wanted none
  Fix              repair it
  Reproduce        pytest --loss-conformance mymodule.MaskBug -k host_sync --loss-seed 0
=========================== short test summary info ============================
FAILED mymodule.MaskBug::mask_value - L(batch) must not change when only cont...
========= 1 failed, 2 passed, 1 skipped, 1 xfailed, 1 advice in 0.00s =========="""

QUIET = """\
...sax                                                                   [100%]
=============================== loss conformance ===============================
mymodule.Sound: 5 applicable, 3 passed, 1 expected failure, 1 advice; 1 not applicable
3 passed, 1 skipped, 1 xfailed, 1 advice in 0.00s"""


@pytest.fixture(autouse=True)
def plain_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("CI", raising=False)


def printed(result: pytest.RunResult) -> str:
    text = re.sub(r" in \d+\.\d+s", " in 0.00s", result.stdout.str())
    text = re.sub(r"(1 advice in 0\.00s) =+$", r"\1 ==========", text, flags=re.M)
    varying = ("platform ", "rootdir: ", "plugins: ", "cachedir: ", "hypothesis profile")
    lines = text.splitlines()
    head = [line for line in lines[:8] if not line.startswith(varying) and "test session starts" not in line]
    return "\n".join(head + lines[8:])


def test_a_failing_run(runner: pytest.Pytester) -> None:
    result = runner.runpytest_inprocess("--loss-conformance=mymodule.MaskBug")
    assert printed(result) == FULL


def test_a_quiet_run(runner: pytest.Pytester) -> None:
    result = runner.runpytest_inprocess("--loss-conformance=mymodule.Sound", "-q")
    assert printed(result) == QUIET


def test_a_run_without_terminal(runner: pytest.Pytester) -> None:
    result = runner.runpytest_inprocess("--loss-conformance=mymodule.MaskBug", "-p", "no:terminal")
    assert result.ret == 1
    assert result.outlines == []


def test_no_colour_where_none_is_wanted(runner: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    result = runner.runpytest_inprocess("--loss-conformance=mymodule.MaskBug")
    assert "\x1b" not in result.stdout.str()


def test_two_targets_have_a_line_each_and_a_deselected_one_says_so(runner: pytest.Pytester) -> None:
    arguments = ["--loss-conformance=mymodule.Sound", "--loss-conformance=mymodule.MaskBug", "-k", "MaskBug"]
    result = runner.runpytest_inprocess(*arguments)
    result.stdout.fnmatch_lines(["mymodule.Sound: no check ran", "mymodule.MaskBug: 5 applicable, *"])


def test_options_that_decide_the_verdict_are_in_the_reproduce_line(runner: pytest.Pytester) -> None:
    config = '{"beta": 1}'
    result = runner.runpytest_inprocess(
        "--loss-conformance=mymodule.MaskBug", "--loss-config", config, "--loss-profile=quick"
    )
    result.stdout.fnmatch_lines(
        [
            "  Reproduce        pytest --loss-conformance mymodule.MaskBug -k mask_value "
            "--loss-config '{\"beta\": 1}' --loss-profile quick --loss-seed 12"
        ]
    )

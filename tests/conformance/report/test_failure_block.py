"""The failure block, letter by letter."""

from dataclasses import replace

from loss_conformance.report.failure_block import failure_block, reason_block
from loss_conformance.verdict import Failure
from tests.conformance.pytest_side.fake_engine import CHECKS, MASK_FAILURE, make_check

MASK_VALUE = CHECKS[2]
REPRODUCE = (
    "pytest --loss-conformance mymodule.MyLoss -k mask_value --loss-seed 12",
    "python .loss-conformance/mask_value.py",
)

AS_IN_THE_DESIGN = """\
mymodule.MyLoss::mask_value FAILED
  L(batch) must not change when only content at masked positions changes.
    smallest case   B=2 S=3, token_mask=[[0,1,0],[0,1,1]]   (seed 12, shrunk in 9 steps)
    changed         model_outputs["next_token_logprobs"][0,1]: -1.0 → -3.0   (masked)
    got  0.7413     wanted 0.6931 ± 2e-7 (8 ulp float32, 3 terms)
  Likely cause     the mask multiplies after the mean, or one operand of a difference is unmasked.
  Fix              where(mask, x, 0) before exp/log; divide by mask.sum().clamp(min=1).
  Seen in          volcengine/verl#2377
  Reproduce        pytest --loss-conformance mymodule.MyLoss -k mask_value --loss-seed 12
                   python .loss-conformance/mask_value.py"""

BARE = """\
mymodule.MyLoss::law FAILED
  A law.
  Fix              repair it"""

EVERYTHING = """\
mymodule.MyLoss::law ADVICE
  A law.
    smallest case   B=1
                    S=2
    got             RuntimeError
    wanted          a loss
    File "mymodule.py", line 3, in compute_loss
      return torch.log(x)
  Likely cause     one that the check knew
  Fix              repair it
  If it is meant   contract = Contract(lower_bound=-math.inf)"""

LONG = """\
mymodule.MyLoss::law FAILED
  A law.
    got             0.1111111111 0.1111111111 0.1111111111 0.1111111111 0.1111111111 0.1111111111 0.1111111111
    wanted          0.6931 ± 2e-7
  Fix              explain explain explain explain explain explain explain explain explain explain explain explain
                   explain explain"""


def law(**changed: str) -> object:
    return make_check("law", "masking", **changed)


def block(check: object, failure: Failure, **how: object) -> str:
    return failure_block("mymodule.MyLoss", check, failure, **how)  # type: ignore[arg-type]


def test_the_block_of_the_design() -> None:
    assert block(MASK_VALUE, MASK_FAILURE, reproduce=REPRODUCE) == AS_IN_THE_DESIGN


def test_lines_without_content_are_left_out() -> None:
    assert block(law(), Failure(law="")) == BARE


def test_the_case_of_the_check_goes_before_its_general_text() -> None:
    failure = Failure(
        law="A law.",
        case="B=1\nS=2",
        got="RuntimeError\n",
        wanted="a loss",
        cause="one that the check knew",
        traceback='File "mymodule.py", line 3, in compute_loss\n  return torch.log(x)\n',
        declare="contract = Contract(lower_bound=-math.inf)",
    )
    assert block(law(cause="the general one"), failure, ending="ADVICE") == EVERYTHING


def test_long_values_get_lines_of_their_own_and_long_prose_is_wrapped() -> None:
    failure = Failure(law="A law.", got=" ".join(["0.1111111111"] * 7), wanted="0.6931", tolerance="2e-7")
    assert block(law(fix=" ".join(["explain"] * 14)), failure) == LONG


def test_one_of_got_and_wanted_is_enough() -> None:
    assert "    got             nan\n" in block(law(), Failure(law="A law.", got="nan"))
    assert "    wanted          1e-7\n" in block(law(), Failure(law="A law.", tolerance="1e-7"))


def test_no_line_ends_in_a_space() -> None:
    text = block(MASK_VALUE, replace(MASK_FAILURE, case="a  \n\nb"))
    assert not [line for line in text.splitlines() if line != line.rstrip()]


def test_a_reason_without_a_broken_law() -> None:
    assert reason_block("m.L", MASK_VALUE, "exempt, but the law holds", "FAILED", ("pytest x",)) == (
        "m.L::mask_value FAILED\n  exempt, but the law holds\n  Reproduce        pytest x"
    )

"""Run by the tox environment `wheel`: the installed package in an empty directory with only mymodule.py in it."""

import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

HEAD = """
from loss_reference import LossFunction

class MyLoss(LossFunction):
    def compute_loss(self, batch, model_outputs):
        mask = batch["token_mask"][:, 1:] * batch["sample_mask"][:, None]
        logprobs = model_outputs["next_token_logprobs"]
"""
SOUND = """
        total = batch.get("global_valid_toks", mask.sum()).clamp(min=1)
        return -(logprobs.where(mask != 0, 0.0) * mask).sum() / total
"""
BROKEN = """
        return -logprobs.mean() * (mask.sum() > 0)
"""


def run(folder: Path, *command: str) -> tuple[int, str]:
    scripts = Path(sysconfig.get_path("scripts"))
    done = subprocess.run([scripts / command[0], *command[1:]], cwd=folder, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def require(met: bool, what: str, output: str) -> None:
    if not met:
        sys.exit(f"{output}\nthe wheel does not work: {what}")


def try_wheel(folder: Path) -> None:
    module = folder / "mymodule.py"
    check = ("pytest", "--loss-conformance", "mymodule.MyLoss", "-p", "no:cacheprovider")

    module.write_text(HEAD + SOUND)
    status, output = run(folder, *check)
    require(status == 0, f"a sound loss gave exit status {status}", output)
    left = {path.name for path in folder.iterdir()} - {"mymodule.py", "__pycache__"}
    require(not left, f"a green run left {left}", output)

    module.write_text(HEAD + BROKEN)
    status, output = run(folder, *check, "--loss-profile", "quick")
    require(status == 1, f"a broken loss gave exit status {status}", output)
    require("mymodule.MyLoss::mask_value FAILED" in output, "the broken mask is not named", output)
    status, output = run(folder, "python", ".loss-conformance/mask_value.py")
    require(status == 1 and "mask_value FAILED" in output, f"the script gave exit status {status}", output)
    status, output = run(folder, "loss-conformance", "list")
    require(status == 0 and "mask_value" in output, "the table of checks is not printed", output)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as empty:
        try_wheel(Path(empty))
    print("the wheel works: a sound loss is green, a broken one is told so")

"""Look inside a loss: its parts, the gradients it sends out, and whether a run is stable. Run it: ``python debugging.py``."""

import torch

from loss_reference import (
    LossStabilityMonitor,
    ModelOutputs,
    MultiObjectiveLoss,
    analyze_loss_gradients,
    debug_loss_components,
)


def example_batch(pairs=2, tokens=6):
    generator = torch.Generator().manual_seed(0)
    rows = 2 * pairs
    batch = {
        "token_mask": torch.ones(rows, tokens),
        "sample_mask": torch.ones(rows),
        "reference_policy_logprobs": -torch.rand(rows, tokens, generator=generator),
    }
    logprobs = -torch.rand(rows, tokens - 1, generator=generator)
    return batch, ModelOutputs(next_token_logprobs=logprobs.requires_grad_())


def main():
    loss_fn = MultiObjectiveLoss({"objectives": ["dpo", "sft"], "weights": [1.0, 0.5]})
    batch, model_outputs = example_batch()

    debug_loss_components(batch, model_outputs, loss_fn, show=True)
    print(analyze_loss_gradients(loss_fn, batch, model_outputs))

    monitor = LossStabilityMonitor(window_size=20)
    logprobs = model_outputs["next_token_logprobs"]
    optimizer = torch.optim.SGD([logprobs], lr=0.1)
    for _ in range(20):
        loss = loss_fn.compute_loss(batch, model_outputs)
        loss_fn.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        monitor.update(loss)
    stability = monitor.check_stability()
    print("stable:", bool(stability), "-", stability.reason)


if __name__ == "__main__":
    main()

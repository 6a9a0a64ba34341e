"""The numbers of a case, made coherently: one latent policy, from which everything else is derived."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

import torch
from torch import Tensor

from loss_conformance.cases.documents import DOCUMENTS, documents
from loss_conformance.cases.label_values import BINARY, binary_value, label_value
from loss_conformance.cases.pair_values import pair_value
from loss_conformance.cases.plan import Plan
from loss_conformance.cases.prepared_values import prepared_value
from loss_conformance.cases.slot import Slot

__all__ = ["World", "outside_vocabulary"]

# Standard deviation, in nats, of how far other policies lie from the trained one.
_DISTANCE: Final = {"on_policy": 0.0, "ties": 0.0, "off_policy": 3.0}
# Standard deviation of logits.
_SPREAD: Final = {"ties": 0.0, "saturated": 25.0}
# How far below 0 scores lie that are sure of nothing being there: a probability that is 0 in float32.
_SURE: Final = 128.0
# Numbers are multiples of this, so that a printed case is short and exact.
_GRAIN: Final = 64.0


def _rounded(x: Tensor) -> Tensor:
    return torch.round(x * _GRAIN) / _GRAIN


@dataclass
class World:
    """Every quantity of the batch vocabulary on one token grid; entry t speaks of token t.

    Attributes:
        paired: rows come in interleaved pairs.
        found_or_not: something is to be found or not, as targets between 0 and 1 say, so that all of them may be 0.
    """

    plan: Plan
    rows: int
    tokens: int
    trained: Tensor
    weights: Tensor
    generator: torch.Generator
    paired: bool = False
    found_or_not: bool = False
    grids: dict[str, Tensor] = field(default_factory=dict)

    def normal(self, *shape: int) -> Tensor:
        """Return standard normal numbers on the grain."""
        return _rounded(torch.randn(shape, generator=self.generator, dtype=torch.float64))

    def integers(self, high: int, *shape: int) -> Tensor:
        """Return whole numbers in [0, high)."""
        return torch.randint(high, shape, generator=self.generator)

    @cached_property
    def token_ids(self) -> Tensor:
        """[B, S] token ids."""
        return self.integers(self.plan.vocabulary, self.rows, self.tokens)

    @cached_property
    def logits(self) -> Tensor:
        """[B, S, V] logits; position t is the distribution of token t."""
        spread = _SPREAD.get(self.plan.regime, 1.5)
        logits = self.normal(self.rows, self.tokens, self.plan.vocabulary) * spread
        if self.plan.regime == "certain":
            logits = logits.scatter_add(-1, self.token_ids.unsqueeze(-1), torch.full_like(logits[..., :1], 60.0))
        return logits.masked_fill(self.never_chosen, float("-inf"))

    @cached_property
    def never_chosen(self) -> Tensor:
        """[B, S, V] vocabulary entries of probability exactly 0: one per position in that regime, never the target."""
        ids = torch.arange(self.plan.vocabulary)
        never = (self.token_ids + 1) % self.plan.vocabulary
        return (ids == never.unsqueeze(-1)) & (self.plan.regime == "never_chosen")

    @cached_property
    def logprobs(self) -> Tensor:
        """[B, S] log-probability of each token under the trained policy."""
        return self.logits.log_softmax(-1).gather(-1, self.token_ids.unsqueeze(-1)).squeeze(-1)

    def nearby(self, logprobs: Tensor, scale: float = 0.5) -> Tensor:
        """Return the log-probabilities of another policy, at the distance of the regime; never above 0."""
        distance = _DISTANCE.get(self.plan.regime, scale)
        return torch.clamp(logprobs + distance * self.normal(self.rows, self.tokens), max=0.0)

    @cached_property
    def previous_logprobs(self) -> Tensor:
        """[B, S] of the policy before this update."""
        return self.nearby(self.logprobs, 0.15)

    @cached_property
    def generation_logprobs(self) -> Tensor:
        """[B, S] of the policy that generated."""
        return self.nearby(self.previous_logprobs, 0.1)

    @cached_property
    def reference_logprobs(self) -> Tensor:
        """[B, S] of the frozen reference."""
        return self.nearby(self.logprobs)

    @cached_property
    def teacher_logits(self) -> Tensor:
        """[B, S, V] of the teacher; as sure as the student in that regime, and of something else."""
        if self.plan.regime == "saturated":
            return _SPREAD["saturated"] * self.normal(self.rows, self.tokens, self.plan.vocabulary)
        distance = _DISTANCE.get(self.plan.regime, 1.0)
        return self.logits + distance * self.normal(self.rows, self.tokens, self.plan.vocabulary)

    @cached_property
    def reference_logits(self) -> Tensor:
        """[B, S, V] of the frozen reference."""
        distance = _DISTANCE.get(self.plan.regime, 0.5)
        return self.logits + distance * self.normal(self.rows, self.tokens, self.plan.vocabulary)

    @cached_property
    def teacher_top_k(self) -> tuple[Tensor, Tensor]:
        """([B, S, K] logits, [B, S, K] indices) of the teacher's most likely tokens."""
        possible = self.plan.vocabulary - int(self.plan.regime == "never_chosen")
        values, indices = self.teacher_logits.topk(min(self.plan.top_k + 1, possible), dim=-1)
        return values, indices

    @cached_property
    def values(self) -> Tensor:
        """[B, S] predicted values."""
        return self.normal(self.rows, self.tokens)

    def near_values(self) -> Tensor:
        """[B, S] returns or old values."""
        distance = _DISTANCE.get(self.plan.regime, 1.0)
        return self.values + distance * self.normal(self.rows, self.tokens)

    def advantages(self) -> Tensor:
        """[B, S] advantages of both signs; 0 or all alike in those regimes."""
        if self.plan.nothing_there or self.plan.regime == "ties":
            return torch.full((self.rows, self.tokens), float(self.plan.regime == "ties"), dtype=torch.float64)
        return self.normal(self.rows, self.tokens)

    def row_scores(self) -> Tensor:
        """[B] rewards."""
        spread = {"ties": 0.0, "saturated": 60.0}.get(self.plan.regime, 1.0)
        return spread * self.normal(self.rows)

    def given_rewards(self) -> Tensor:
        """[B] rewards of a judge; in a pair the chosen row has the higher one, as in every preference data set."""
        scores = self.row_scores()
        return scores.reshape(-1, 2).sort(dim=1, descending=True).values.flatten() if self.paired else scores

    def embeddings(self) -> Tensor:
        """[B, D] embeddings; identical rows for ties."""
        spread = {"saturated": 30.0, "certain": 8.0}.get(self.plan.regime, 1.0)
        rows = self.normal(self.rows, self.plan.features)
        if self.plan.regime == "ties":
            # Now and then along one axis: their cosine is then exactly 1, not 1 up to rounding.
            one = torch.eye(self.plan.features, dtype=torch.float64)[0] * 2 if self.plan.seed % 2 else rows[0]
            rows = one.expand(rows.shape).clone()
        return _with_nothing(rows, self.plan) * spread

    def coinciding(self, *shape: int) -> Tensor:
        """Return the same embeddings to all that ask for this shape, now and then one for all rows: every distance is 0."""
        rows = self.grids.setdefault(f"coinciding {shape}", self.normal(*shape))
        return rows[:1].expand(shape).clone() if self.plan.seed % 2 else rows.clone()

    def pairs(self) -> Tensor:
        """[N, 2] indices of two different rows."""
        first = self.integers(self.rows, self.plan.terms)
        step = 1 + self.integers(max(self.rows - 1, 1), self.plan.terms)
        return torch.stack((first, (first + step) % self.rows), dim=1)

    def pairs_from(self, anchors: Tensor) -> Tensor:
        """[N, 2] pairs with these first rows."""
        step = 1 + self.integers(max(self.rows - 1, 1), len(anchors))
        return torch.stack((anchors, (anchors + step) % self.rows), dim=1)

    @cached_property
    def positive_pairs(self) -> Tensor:
        """[N, 2] pairs that belong together."""
        return self.pairs()

    def count(self, of_tokens: bool) -> Tensor:
        """Return a count over the global batch: this batch's, and now and then that of an imagined other one."""
        local = (self.trained.to(self.weights) * self.weights[:, None]).sum() if of_tokens else self.weights.sum()
        return local + (4.0 if self.plan.seed % 2 else 0.0)

    def make(self, slot: Slot) -> Tensor | None:
        """Return the tensor for a slot of the vocabulary, aligned as the slot says; ``None`` for another kind."""
        makers = {
            "batch.input_ids": lambda: self.token_ids,
            "batch.input_lengths": lambda: self._lengths(),
            "batch.token_mask": lambda: self.trained.to(torch.float64),
            "batch.sample_mask": lambda: self.weights,
            "rows_mask": lambda: self.weights,
            DOCUMENTS: lambda: documents(self),
            "batch.reference_policy_logprobs": lambda: self.reference_logprobs,
            "batch.prev_logprobs": lambda: self.previous_logprobs,
            "batch.generation_logprobs": lambda: self.generation_logprobs,
            "batch.advantages": self.advantages,
            "batch.returns": self.near_values,
            "batch.values": self.near_values,
            "batch.rewards": self.given_rewards,
            "batch.labels": lambda: self.integers(2, self.rows),
            "batch.reference_logits": lambda: self.reference_logits,
            "batch.teacher_logits": lambda: self.teacher_logits,
            "batch.teacher_logprobs": lambda: self.nearby(self.logprobs),
            "batch.teacher_topk_logits": lambda: self.teacher_top_k[0],
            "batch.teacher_topk_indices": lambda: self.teacher_top_k[1],
            "batch.positive_pairs": lambda: self.positive_pairs,
            "batch.negative_pairs": lambda: self.pairs_from(self.positive_pairs[:, 0]),
            "batch.global_valid_toks": lambda: self.count(True),
            "batch.global_valid_seqs": lambda: self.count(False),
            "model_outputs.logits": lambda: self.logits,
            "model_outputs.next_token_logprobs": lambda: self.logprobs,
            "model_outputs.values": lambda: self.values,
            "model_outputs.rewards": self.row_scores,
            "model_outputs.embeddings": self.embeddings,
        }
        if slot.kind not in self.grids:
            if slot.kind not in makers:
                return None
            self.grids[slot.kind] = makers[slot.kind]()
        return self.aligned(self.grids[slot.kind], slot)

    def aligned(self, grid: Tensor, slot: Slot) -> Tensor:
        """Return a token-aligned tensor shifted to the alignment of ``slot``; entries past the last token repeat it."""
        axis = slot.token_axis
        if axis is None and len(slot.shape) == 1 and grid.dim() == 2:
            return grid[:, -1].clone()  # one for the whole row, as of its last token
        if axis is None or slot.shift == 0:
            return grid.clone()
        length = self.tokens - 1 if slot.shape[axis] == "S-1" else self.tokens
        speaks_of = (torch.arange(length) + slot.shift).clamp(max=self.tokens - 1)
        return grid.index_select(axis, speaks_of)

    def _lengths(self) -> Tensor:
        position = torch.arange(self.tokens).expand(self.rows, self.tokens)
        return torch.where(self.trained, position + 1, 1).amax(dim=1)

    def size(self, letter: str) -> int:
        """Return the size a shape letter stands for; a letter outside the vocabulary gets a size of its own."""
        sizes = {
            "B": self.rows,
            "S": self.tokens,
            "S-1": self.tokens - 1,
            "V": self.plan.vocabulary,
            "K": self.plan.top_k,
            "D": self.plan.features,
            "N": self.plan.terms,
        }
        if letter.isdigit():
            return int(letter)
        return sizes.get(letter) or 1 + (sum(map(ord, letter)) + self.plan.seed) % 5


def outside_vocabulary(slot: Slot, world: World) -> Tensor:
    """Return a tensor for an input known by role and shape alone."""
    if slot.kind.startswith("pair."):
        return pair_value(slot, world)
    if slot.kind.startswith("prepared."):
        return prepared_value(slot, world)
    if slot.kind == BINARY:
        return _without_positives(binary_value(slot, world), world.plan)
    if slot.role in ("token_ids", "labels", "lengths"):
        return label_value(slot, world)
    shape = [world.size(letter) for letter in slot.shape]
    if slot.role == "pairs":
        return world.integers(world.rows, *shape)
    if slot.role == "rewards" and not slot.trainable and world.plan.regime == "ties":
        return torch.zeros(shape, dtype=torch.float64)  # nobody is better than anybody
    plain = slot.role == "embeddings" or (slot.kind == "values" and not slot.limited and slot.shape)
    if plain and world.plan.regime == "ties":
        return world.coinciding(*shape)
    spread = 1.0 if world.plan.regime != "saturated" else 25.0
    x = world.normal(*shape) * spread
    if slot.signs:
        return torch.where(x >= 0, 1.0, -1.0).to(torch.float64)
    if slot.role == "embeddings":
        return _with_nothing(x, world.plan)
    if slot.role == "logits" and slot.trainable and world.found_or_not and world.plan.nothing_there:
        return x - _SURE
    if slot.role == "logits" and slot.shape == ("B", "S", "V") and not slot.trainable:
        return x.masked_fill(world.never_chosen, float("-inf"))  # a vocabulary is filtered for all who are compared
    if slot.role == "logprobs":
        return x.log_softmax(-1) if slot.shape and slot.shape[-1] == "V" else -x.abs()
    if slot.role == "probabilities":
        p = x.softmax(-1) if slot.shape and slot.shape[-1] == "V" else torch.sigmoid(x)
        if world.paired and slot.shape == ("B",):
            return torch.maximum(p, 1.0 - p).clamp(max=1.0 - 1e-4)  # that the chosen row wins
        p = p.clamp(min=1e-4, max=1.0 - 1e-4)
        return p if slot.trainable or slot.shape[-1:] == ("V",) else _without_positives(p, world.plan)
    if slot.role == "mask" and (slot.shape[:1], slot.shape[-1:]) == (("B",), ("S",)):
        between = [1] * (len(shape) - 2)
        return world.trained.reshape(world.rows, *between, world.tokens).expand(shape).to(torch.float64)
    if slot.role == "mask":
        return (x > -1).to(torch.float64)
    if slot.role in ("weights", "count"):
        return x.abs() + 1.0
    if slot.low is not None or slot.high is not None:
        return _between(x, slot.low, slot.high)
    return x


def _without_positives(targets: Tensor, plan: Plan) -> Tensor:
    """Return targets in [0, 1] as drawn, or those of a batch in which nothing is to be found."""
    return torch.zeros_like(targets) if plan.nothing_there else targets


def _with_nothing(rows: Tensor, plan: Plan) -> Tensor:
    """Return embeddings as drawn, or with a first one of no length: that of an empty text, or of units that are all off."""
    if plan.nothing_there and rows.dim() > 1:
        rows[0] = 0.0
    return rows


def _between(x: Tensor, low: float | None, high: float | None) -> Tensor:
    if low is not None and high is not None:
        return low + (high - low) * _rounded(torch.sigmoid(x))
    return low + x.abs() if low is not None else (high or 0.0) - x.abs()

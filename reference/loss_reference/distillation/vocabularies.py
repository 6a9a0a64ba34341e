"""Which tokens of the student's vocabulary are tokens of the teacher's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from loss_reference.settings import ConfigError

__all__ = ["Matching", "sorted_l1"]


class Matching:
    """Pairs (student id, teacher id) of tokens that are the same, each id at most once.

    Args:
        pairs: the pairs, in any order; ``None`` pairs the first min(V, U) ids of both with themselves.
    """

    def __init__(self, pairs: Sequence[tuple[int, int]] | None) -> None:
        self.identity = pairs is None
        self.student_ids = [student for student, _ in pairs or ()]
        self.teacher_ids = [teacher for _, teacher in pairs or ()]

    @classmethod
    def from_map(cls, loss: str, key: str, vocabulary_map: Any) -> Matching:
        """Return the matching of a list that has the teacher's id of every student id, or -1; ``None`` for the identity.

        Raises:
            ConfigError: not a list of whole numbers of at least -1, or a teacher id given twice.
        """
        if vocabulary_map is None:
            return cls(None)
        is_list = isinstance(vocabulary_map, Sequence) and not isinstance(vocabulary_map, str)
        if not is_list or not all(type(x) is int and x >= -1 for x in vocabulary_map):
            raise ConfigError(
                f"{loss}: {key}={vocabulary_map!r}; expected a list with the teacher's id of each student id, -1 for none"
            )
        pairs = [(student, teacher) for student, teacher in enumerate(vocabulary_map) if teacher >= 0]
        twice = [teacher for teacher, count in Counter(teacher for _, teacher in pairs).items() if count > 1]
        if twice:
            raise ConfigError(f"{loss}: {key} gives the teacher's id {twice[0]} to more than one student id")
        return cls(pairs)

    def split(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return (student matched [..., M], teacher matched [..., M], the student's others, the teacher's others).

        Args:
            student: numbers [..., V], one for each token of the student's vocabulary.
            teacher: numbers [..., U], one for each token of the teacher's.

        Raises:
            ValueError: a pair outside the vocabularies.
        """
        V, U = student.shape[-1], teacher.shape[-1]
        if self.identity:
            M = min(V, U)
            return student[..., :M], teacher[..., :M], student[..., M:], teacher[..., M:]
        highest = max(self.student_ids, default=-1), max(self.teacher_ids, default=-1)
        if highest[0] >= V or highest[1] >= U:
            raise ValueError(
                f"tokens up to {highest[0]} of the student and {highest[1]} of the teacher are matched; "
                f"the vocabularies have {V} and {U} tokens"
            )
        (matched_s, others_s), (matched_t, others_t) = (
            _split(student, self.student_ids),
            _split(teacher, self.teacher_ids),
        )
        return matched_s, matched_t, others_s, others_t


def sorted_l1(p: Tensor, q: Tensor) -> Tensor:
    """Return sum_i |p_(i) - q_(i)| over the last axis, both sorted descending, the shorter one padded with zeros."""
    size = max(p.shape[-1], q.shape[-1])
    p, q = (F.pad(x, (0, size - x.shape[-1])).sort(dim=-1, descending=True).values for x in (p, q))
    return (p - q).abs().sum(dim=-1)


def _split(x: Tensor, ids: list[int]) -> tuple[Tensor, Tensor]:
    chosen = torch.tensor(ids, dtype=torch.long, device=x.device)
    others = torch.ones(x.shape[-1], dtype=torch.bool, device=x.device).index_fill(0, chosen, False)
    return x.index_select(-1, chosen), x[..., others]

"""Small batches for policy losses, and the losses' formulas as a loop over them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tinsmith_server.trainer.losses.base import SEQUENCES

Token = tuple[float, float, float]
"""p, p - q, advantage."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Case:
    """Sequences of tokens."""

    p: Tensor
    columns: Mapping[str, Tensor]
    lengths: list[int]

    @classmethod
    def of(cls, sequences: list[list[Token]]) -> "Case":
        flat = torch.tensor([token for row in sequences for token in row], dtype=torch.float64).reshape(-1, 3)
        lengths = [len(row) for row in sequences]
        return cls(
            p=flat[:, 0].clone().requires_grad_(),
            columns={
                "logprobs": flat[:, 0] - flat[:, 1],
                "advantages": flat[:, 2],
                SEQUENCES: torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths, dtype=torch.int64)),
            },
            lengths=lengths,
        )

    def only(self, kept: Tensor) -> tuple[Tensor, Mapping[str, Tensor]]:
        return self.p[kept], {name: column[kept] for name, column in self.columns.items()}


def by_loop(loss: Any, case: Case) -> float:
    """The contract's formula, sequence by sequence and token by token, in plain float64."""
    p, q, advantages = (column.tolist() for column in (case.p, case.columns["logprobs"], case.columns["advantages"]))
    total, start = 0.0, 0
    for length in case.lengths:
        places = range(start, start + length)
        changes = [p[t] - q[t] for t in places if advantages[t] != 0]
        s = math.exp(sum(changes) / len(changes)) if changes else 1.0
        for t in places:
            total -= _term(loss, p[t], q[t], advantages[t], s)
        start += length
    return total


def _term(loss: Any, p: float, q: float, a: float, s: float) -> float:
    """What one token brings to the objective, which is maximised."""
    r = math.exp(p - q)
    match loss.name:
        case "importance_sampling":
            return r * a
        case "ppo":
            return min(r * a, min(max(r, loss.clip_low), loss.clip_high) * a)
        case "cispo":
            return min(max(r, loss.clip_low), loss.clip_high) * p * a
        case "dro":
            return p * a - loss.beta / 2 * (p - q) ** 2 if a or q else 0.0
        case "gspo":
            return min(s * a, min(max(s, loss.clip_low), loss.clip_high) * a)
    raise AssertionError(loss.name)

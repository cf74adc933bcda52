"""What a value of a loss graph has numbers for, and how the operations change it."""

from collections.abc import Callable, Sequence
from enum import Enum

import torch
from torch import Tensor


class Level(Enum):
    """Shape of a value; the texts are the contract's."""

    SCALAR = "a scalar"
    DATUM = "[D]"
    TOKEN = "[T]"
    TARGETS = "[T, K]"


class LevelError(Exception):
    """Shapes that an operation does not take; the text says which it takes."""


Rule = Callable[[Sequence[Level]], Level]
"""Levels of the arguments -> level of the result, or LevelError."""


def combined(levels: Sequence[Level]) -> Level:
    """Number by number: one shape, scalars beside it, and [T] beside [T, K]."""
    found = set(levels) - {Level.SCALAR}
    if not found:
        return Level.SCALAR
    if len(found) == 1:
        return found.pop()
    if found == {Level.TOKEN, Level.TARGETS}:
        return Level.TARGETS
    raise LevelError(f"does not combine {' with '.join(level.value for level in levels)}")


def reduced(before: Level, after: Level) -> Rule:
    """Takes one shape only."""

    def rule(levels: Sequence[Level]) -> Level:
        if list(levels) != [before]:
            raise LevelError(f"takes {before.value}, not {levels[0].value}")
        return after

    return rule


def to_scalar(levels: Sequence[Level]) -> Level:
    """Takes any shape."""
    return Level.SCALAR


def gathered(levels: Sequence[Level]) -> Level:
    """Takes [D] twice."""
    if list(levels) != [Level.DATUM, Level.DATUM]:
        raise LevelError(f"takes [D] and [D], not {' and '.join(level.value for level in levels)}")
    return Level.DATUM


def aligned(values: Sequence[Tensor]) -> Sequence[Tensor]:
    """Values that torch broadcasts as `combined` says: a token's number stands for its K targets."""
    if any(value.ndim == 2 for value in values):
        return [value.unsqueeze(1) if value.ndim == 1 else value for value in values]
    return values


def first_extremes(values: Tensor, lengths_S: Tensor, which: str) -> Tensor:
    """The largest ("max") or smallest ("min") of each datum's values, [T] -> [D]; the first of equal ones has the
    gradient."""
    found = values.detach()
    extremes_S = torch.segment_reduce(found, which, lengths=lengths_S, unsafe=True)
    steps = torch.arange(len(found), device=found.device)
    # Exact as float64 up to 2^53 tokens; torch reduces no integers this way.
    candidates = torch.where(found == extremes_S.repeat_interleave(lengths_S), steps, len(found)).double()
    return values[torch.segment_reduce(candidates, "min", lengths=lengths_S, unsafe=True).long()]

"""What an objective needs of a column of `loss_inputs`."""

from dataclasses import dataclass
from enum import Enum, auto


class Shape(Enum):
    """How many numbers there are for a token."""

    TARGETS = auto()
    """As many as `target_tokens` has: [T] or [T, K]."""
    TOKENS_OR_TARGETS = auto()
    """One, or as many as `target_tokens` has."""
    DATUM = auto()
    """One for a whole datum: [D]."""
    VOCABULARY = auto()
    """One for each token of the vocabulary: [T, V]. May be sparse."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Need:
    """A column that must be there."""

    kind: type | None
    """Type of its numbers: int or float; None takes both."""
    shape: Shape
    reader: str
    """What reads it, for messages: "ppo", "regularizer kl"."""

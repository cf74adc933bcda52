"""Rows to data for the loss cross_entropy: tokens, the tokens that follow them, and a weight for each.

A sequence of T tokens is cut at the right to the longest length, then shifted:
tokens = sequence[:-1], target_tokens = sequence[1:], weights = weights[1:].
MEAN scales an example's weights so that they sum to 1, after the cut; an example that counts no token keeps zeros.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from tinsmith_server.dataset.renderers import Shelf, render_examples
from tinsmith_server.dataset.renderers.example import Example
from tinsmith_server.dataset.renderers.messages import Conversation
from tinsmith_server.dataset.renderers.training import TrainOnWhat
from tinsmith_server.serving.errors import InvalidArgument


class Normalization(IntEnum):
    """How weights are scaled; the numbers are those of the contract."""

    BY_SHAPE = 0
    """MEAN for conversations, NONE for preference pairs."""
    MEAN = 1
    NONE = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class DatumFormat:
    """How rows become data."""

    model: str
    renderer: str
    train_on_what: TrainOnWhat
    max_length: int
    """Longest sequence in tokens; 0 means the model's context."""
    normalization: Normalization


@dataclass(kw_only=True, slots=True)
class Datums:
    """Data; item i of every list belongs to datum i, which has T tokens."""

    tokens: list[NDArray[np.int32]] = field(default_factory=list)
    """int32 [T]."""
    targets: list[NDArray[np.int64]] = field(default_factory=list)
    """int64 [T]."""
    weights: list[NDArray[np.float32]] = field(default_factory=list)
    """float32 [T]."""
    row_index: list[int] = field(default_factory=list)
    """The row that each datum is of."""
    truncated: int = 0
    """Data that were cut to the longest length."""


async def build_datums(shelf: Shelf, rows: Sequence[Sequence[Conversation]], wanted: DatumFormat) -> Datums:
    """Data of rows, each given as its conversations: one, or the two sides of a preference pair.

    InvalidArgument with reason PAIR_NEEDS_ONE_EXAMPLE where a side of a pair would become several data, or
    TOO_SHORT for a conversation of fewer than two tokens; NotFound for the model or the renderer.
    """
    desk = shelf.desk(wanted.model)
    flat = [conversation for conversations in rows for conversation in conversations]
    owners = [number for number, conversations in enumerate(rows) for _ in conversations]
    groups = await render_examples(desk, wanted.renderer, flat, (), wanted.train_on_what)
    longest = wanted.max_length or desk.tokenizer.context_length
    made = Datums()
    for owner, examples in zip(owners, groups, strict=True):
        is_pair = len(rows[owner]) > 1
        if is_pair and len(examples) > 1:
            raise _needs_one_example(owner, len(examples))
        for example in examples:
            _append(made, example, owner, longest, normalise=_is_mean(wanted.normalization, is_pair))
            made.truncated += bool(longest) and len(example.tokens) > longest
    return made


def _append(made: Datums, example: Example, row: int, longest: int, *, normalise: bool) -> None:
    tokens = example.tokens[: longest or None]
    if len(tokens) < 2:
        raise InvalidArgument(
            f"row {row} has {len(tokens)} tokens; a datum needs two", reason="TOO_SHORT", metadata={"row": str(row)}
        )
    weights = example.weights[1 : len(tokens)]
    total = weights.sum()
    made.tokens.append(tokens[:-1])
    made.targets.append(tokens[1:].astype(np.int64))
    made.weights.append(weights / total if normalise and total > 0 else weights)
    made.row_index.append(row)


def _is_mean(normalization: Normalization, is_pair: bool) -> bool:
    return not is_pair if normalization is Normalization.BY_SHAPE else normalization is Normalization.MEAN


def _needs_one_example(row: int, examples: int) -> InvalidArgument:
    return InvalidArgument(
        f"row {row} is a pair, and a side of it becomes {examples} data, as the format rewrites earlier turns; "
        "train on LAST_ASSISTANT_TURN or LAST_ASSISTANT_MESSAGE",
        reason="PAIR_NEEDS_ONE_EXAMPLE",
        metadata={"row": str(row), "examples": str(examples)},
    )

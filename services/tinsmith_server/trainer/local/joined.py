"""Micro-batches of several models, put together to be read in one pass.

Each model has a section of the nodes of its own, and another of the outputs. What is done once over everything (norms,
rotations, activations, attention) works row by row or item by item, so that a row has the same bits whatever the other
sections hold; matrix products are done section by section. Sections begin at places, and have sizes, that vector
instructions divide evenly, so that no number is computed by other instructions than it is alone.

A section is padded with nodes of its own, never of another's: what one model computes, NaN or not, reaches no other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby

import numpy as np

from tinsmith_server.trainer.llama.layout import Grid, Ints, MicroBatch


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Joined:
    """What is read at once. Fields as those of `MicroBatch`, and how many rows are whose."""

    tokens_N: Ints
    positions_N: Ints
    grids: tuple[Grid, ...]
    place_N: Ints
    """-1 for a node that is only padding."""
    outputs_M: Ints
    node_counts: tuple[int, ...]
    """Nodes of each section; they lie one after the other."""
    output_counts: tuple[int, ...]
    """Outputs of each section."""
    longest: int
    """Tokens of the longest row."""


def join(batches: Sequence[MicroBatch], *, node_step: int, output_step: int) -> Joined:
    """The batches as one, each padded to multiples of so many nodes and outputs."""
    node_counts = tuple(_up(len(batch.tokens_N), node_step) for batch in batches)
    output_counts = tuple(_up(len(batch.outputs_M), output_step) for batch in batches)
    starts = list(accumulate(node_counts[:-1], initial=0))
    grids, places = _join_grids(batches, starts)

    def laid_out(parts: Sequence[Ints], counts: Sequence[int], padding: int | None = None) -> Ints:
        if len(parts) == 1 and len(parts[0]) == counts[0]:
            return parts[0]
        return np.concatenate([_padded(part, count, padding) for part, count in zip(parts, counts, strict=True)])

    return Joined(
        tokens_N=laid_out([batch.tokens_N for batch in batches], node_counts),
        positions_N=laid_out([batch.positions_N for batch in batches], node_counts),
        grids=grids,
        place_N=laid_out(places, node_counts, padding=-1),
        outputs_M=laid_out(
            [batch.outputs_M + start for batch, start in zip(batches, starts, strict=True)], output_counts
        ),
        node_counts=node_counts,
        output_counts=output_counts,
        longest=max(int(batch.lengths_R.max()) for batch in batches),
    )


def _join_grids(batches: Sequence[MicroBatch], starts: Sequence[int]) -> tuple[tuple[Grid, ...], list[Ints]]:
    """Grids of the same shape on top of each other, and where in them each batch's nodes find their output."""
    members = [(grid, number) for number, batch in enumerate(batches) for grid in batch.grids]
    members.sort(key=lambda member: member[0].shape)
    begins: list[list[int]] = [[] for _ in batches]
    before = 0
    for grid, number in members:
        begins[number].append(before)
        before += grid.queries_RQ.size
    grids = tuple(
        _stacked([(grid, starts[number]) for grid, number in same])
        for _, same in groupby(members, key=lambda member: member[0].shape)
    )
    return grids, [_places(batch, moved) for batch, moved in zip(batches, begins, strict=True)]


def _stacked(grids: Sequence[tuple[Grid, int]]) -> Grid:
    if len(grids) == 1 and not grids[0][1]:
        return grids[0][0]
    shared = [grid.shared_R for grid, _ in grids if grid.shared_R is not None]
    return Grid(
        queries_RQ=np.concatenate([grid.queries_RQ + start for grid, start in grids]),
        keys_RK=np.concatenate([grid.keys_RK + start for grid, start in grids]),
        shared_R=np.concatenate(shared) if shared else None,
    )


def _places(batch: MicroBatch, begins: Sequence[int]) -> Ints:
    """The batch's own places, each moved with its grid to where that begins now."""
    own = np.cumsum([0, *(grid.queries_RQ.size for grid in batch.grids)])
    moves = np.array(begins) - own[:-1]
    if not moves.any():
        return batch.place_N
    moved: Ints = batch.place_N + moves[np.searchsorted(own, batch.place_N, side="right") - 1]
    return moved


def _up(count: int, step: int) -> int:
    return -(-count // step) * step


def _padded(values: Ints, count: int, padding: int | None) -> Ints:
    """The values, and behind them the padding, or the first of them again."""
    if len(values) == count:
        return values
    return np.concatenate([values, np.full(count - len(values), values[0] if padding is None else padding)])

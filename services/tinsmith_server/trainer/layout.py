"""How a batch is cut and laid out before the model reads it.

Tokens that have the same tokens before them have the same hidden states, so they are computed once: the rows of a
batch, sorted, form a tree, and the model reads its nodes, one after the other without padding. Eight answers to one
prompt cost the prompt once, equal answers cost one. Only attention sees rows: the new tokens of a row look at all that
stands before them, in grids that hold rows of similar size.

All is a function of the batch alone, never of other calls.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tinsmith_server.trainer.ragged import Ragged

_KEYS_A_NODE = 4
"""Attention holds the keys of all rows of a piece, shared or not: at most this many for each node that may be in it."""

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Grid:
    """Rows that attend together."""

    queries_RQ: Ints
    """Nodes that look; padded on the right with any node."""
    keys_RK: Ints
    """Nodes that they look at: the whole row, padded on the right with any node."""
    visible_RQK: Bools | None
    """Which query sees which key; None where the grid is square and plain causality says it."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class MicroBatch:
    """What the model reads at once: N nodes, of which M give logits for P targets."""

    tokens_N: Ints
    positions_N: Ints
    row_of_node_N: Ints
    """A row of this micro-batch that the node stands in."""
    grids: tuple[Grid, ...]
    place_N: Ints
    """Where each node's attention output lies in the grids' queries, laid end to end."""
    outputs_M: Ints
    """Nodes that need logits."""
    output_of_target_P: Ints
    """For each target the place in `outputs_M` that predicts it."""
    targets_P: Ints
    """For each target its place in the batch's flat tokens, rising."""
    lengths_R: Ints
    """Lengths of the rows."""
    nodes_RT: Ints
    """The rows as nodes; beyond a row's end any node."""


def micro_batches(tokens: Ragged, counts: Bools | None, *, max_nodes: int) -> Iterator[MicroBatch]:
    """Cuts a batch into pieces of at most `max_nodes` nodes, and rows of at most four times as many tokens in all; a
    longer row is a piece of its own.

    `counts` says for each token whether its target is wanted; None wants all. What stands behind the last wanted
    target of a row is not read.
    """
    sorted_rows = _SortedRows.of(tokens, counts)
    for start, stop in sorted_rows.cuts(max_nodes):
        yield _lay_out(sorted_rows, start, stop, counts)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _SortedRows:
    """The rows that are read, in an order in which those with the same beginning are neighbours."""

    tokens: Ints
    """Flat, as in the batch."""
    starts_R: Ints
    """Where each row begins in `tokens`."""
    lengths_R: Ints
    shared_R: Ints
    """How many tokens a row has in common with the one before it."""

    @classmethod
    def of(cls, tokens: Ragged, counts: Bools | None) -> "_SortedRows":
        lengths = tokens.lengths if counts is None else _wanted_lengths(tokens, counts)
        values = np.ascontiguousarray(tokens.values, np.int64)
        size = values.itemsize
        data, starts = values.tobytes(), tokens.offsets[:-1]
        bounds = zip((starts * size).tolist(), ((starts + lengths) * size).tolist(), strict=True)
        keys = [data[start:stop] for start, stop in bounds]
        order = np.array([row for row in sorted(range(len(keys)), key=keys.__getitem__) if keys[row]], np.int64)
        starts, lengths = starts[order], lengths[order]
        return cls(tokens=values, starts_R=starts, lengths_R=lengths, shared_R=_shared(values, starts, lengths))

    def cuts(self, max_nodes: int) -> Iterator[tuple[int, int]]:
        new_R = self.lengths_R - self.shared_R
        nodes_R, keys_R = np.cumsum(new_R), np.cumsum(self.lengths_R)
        start = 0
        while start < len(nodes_R):
            # The first row of a piece shares nothing, so it brings all its tokens.
            own = self.lengths_R[start]
            by_nodes = np.searchsorted(nodes_R, nodes_R[start] - own + max_nodes, side="right")
            by_keys = np.searchsorted(keys_R, keys_R[start] - own + _KEYS_A_NODE * max_nodes, side="right")
            stop = max(int(min(by_nodes, by_keys)), start + 1)
            yield start, stop
            start = stop


def _wanted_lengths(tokens: Ragged, counts: Bools) -> Ints:
    """Length of each row up to its last wanted target."""
    wanted = np.flatnonzero(counts)
    last = np.searchsorted(wanted, tokens.offsets[1:]) - 1
    ends = np.where(last >= 0, wanted[last] + 1, 0) if len(wanted) else np.zeros_like(last)
    lengths: Ints = np.maximum(ends - tokens.offsets[:-1], 0)
    return lengths


def _shared(tokens: Ints, starts_R: Ints, lengths_R: Ints) -> Ints:
    """Length of the longest common prefix of each row with the one before it; 0 for the first."""
    shared_R = np.zeros(len(starts_R), np.int64)
    if len(starts_R) < 2:
        return shared_R
    common = np.minimum(lengths_R[1:], lengths_R[:-1])
    begins = np.concatenate([[0], np.cumsum(common)])
    steps = np.arange(begins[-1]) - np.repeat(begins[:-1], common)
    same = tokens[np.repeat(starts_R[1:], common) + steps] == tokens[np.repeat(starts_R[:-1], common) + steps]
    # The place of the first difference, or the end.
    first = np.where(same, np.repeat(common, common), steps)
    shared_R[1:] = np.minimum.reduceat(first, begins[:-1])
    return shared_R


def _lay_out(rows: _SortedRows, start: int, stop: int, counts: Bools | None) -> MicroBatch:
    starts_R, lengths_R = rows.starts_R[start:stop], rows.lengths_R[start:stop]
    shared_R = rows.shared_R[start:stop].copy()
    shared_R[0] = 0
    steps_T = np.arange(lengths_R.max())
    inside_RT = steps_T < lengths_R[:, None]
    new_RT = inside_RT & (steps_T >= shared_R[:, None])
    nodes_RT = np.where(new_RT, np.cumsum(new_RT).reshape(new_RT.shape) - 1, 0)
    # A shared token is the node that the nearest row above has in this column.
    nodes_RT = np.maximum.accumulate(nodes_RT, axis=0)
    row_of_node_N, positions_N = np.nonzero(new_RT)
    flat_RT = starts_R[:, None] + steps_T
    wanted_RT = inside_RT if counts is None else inside_RT & counts[np.where(inside_RT, flat_RT, 0)]
    targets = flat_RT[wanted_RT]
    by_place = np.argsort(targets, kind="stable")
    outputs_M, output_of_target_P = np.unique(nodes_RT[wanted_RT][by_place], return_inverse=True)
    grids, place_N = _grids(nodes_RT, lengths_R, shared_R, len(positions_N))
    return MicroBatch(
        tokens_N=rows.tokens[flat_RT[new_RT]],
        positions_N=positions_N,
        row_of_node_N=row_of_node_N,
        grids=grids,
        place_N=place_N,
        outputs_M=outputs_M,
        output_of_target_P=output_of_target_P,
        targets_P=targets[by_place],
        lengths_R=lengths_R,
        nodes_RT=nodes_RT,
    )


def _grids(nodes_RT: Ints, lengths_R: Ints, shared_R: Ints, nodes: int) -> tuple[tuple[Grid, ...], Ints]:
    """The grids, and where each node's output lies in them."""
    new_R = lengths_R - shared_R
    grids, place_N, before = [], np.zeros(nodes, np.int64), 0
    for rows_G in _alike(new_R, lengths_R, shared_R):
        queries, keys = int(new_R[rows_G].max()), int(lengths_R[rows_G].max())
        from_Q, shared_G = np.arange(queries), shared_R[rows_G]
        first_G = nodes_RT[rows_G, shared_G]
        real_GQ = from_Q < new_R[rows_G][:, None]
        queries_GQ = np.where(real_GQ, first_G[:, None] + from_Q, 0)
        place_N[queries_GQ[real_GQ]] = before + np.flatnonzero(real_GQ)
        visible = np.arange(keys) <= (shared_G[:, None] + from_Q)[:, :, None] if shared_G.any() else None
        grids.append(Grid(queries_RQ=queries_GQ, keys_RK=nodes_RT[rows_G, :keys], visible_RQK=visible))
        before += queries_GQ.size
    return tuple(grids), place_N


def _alike(new_R: Ints, lengths_R: Ints, shared_R: Ints) -> Iterator[Ints]:
    """Rows with new tokens, those of similar size together: queries within a factor of 4, keys within one of 2."""
    rows = np.flatnonzero(new_R)
    queries = np.ceil(np.log2(new_R[rows]) / 2).astype(np.int64)
    keys = np.ceil(np.log2(lengths_R[rows])).astype(np.int64)
    kind = np.where(shared_R[rows] == 0, -1 - keys, queries * 64 + keys)
    for each in np.unique(kind):
        yield rows[kind == each]

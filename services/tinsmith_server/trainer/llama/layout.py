"""How a batch is cut and laid out before the model reads it.

Tokens that have the same tokens before them have the same hidden states, so they are computed once: the rows of a
batch, sorted, form a tree, and the model reads its nodes, one after the other without padding. Eight answers to one
prompt cost the prompt once, equal answers cost one. Only attention sees rows: the new tokens of a row look at all that
stands before them, in grids that hold rows of similar size.

All is a function of the batch alone, never of other calls.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tinsmith_server.trainer.ragged import Ragged

_KEYS_A_NODE = 4
"""Attention holds the keys of all rows of a piece, shared or not: at most this many for each node that may be in it."""
_FEWEST_QUERIES, _FEWEST_KEYS = 4, 16

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Grid:
    """Rows that attend together. Query q of a row sees the keys up to `shared + q`, its own place."""

    queries_RQ: Ints
    """Nodes that look; padded on the right with node 0."""
    keys_RK: Ints
    """Nodes that they look at: the whole row, padded on the right with node 0."""
    shared_R: Ints | None
    """How many keys stand before each row's first query; None where there are none, and the grid is square."""

    @property
    def shape(self) -> tuple[bool, int, int]:
        """Square or not, queries and keys; grids of one micro-batch rise in it."""
        return (self.shared_R is None, self.queries_RQ.shape[1], self.keys_RK.shape[1])


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


class MicroBatches:
    """A batch in pieces of at most `max_nodes` nodes, and rows of at most four times as many tokens in all; a longer
    row is a piece of its own. Pieces are laid out as they are asked for.

    `counts` says for each token whether its target is wanted; None wants all. What stands behind the last wanted
    target of a row is not read.
    """

    def __init__(self, tokens: Ragged, counts: Bools | None, *, max_nodes: int) -> None:
        self._rows, self._counts = _SortedRows.of(tokens, counts), counts
        self._cuts = list(self._rows.cuts(max_nodes))

    def __len__(self) -> int:
        return len(self._cuts)

    @property
    def nodes(self) -> int:
        """Nodes of a batch in one piece."""
        return int((self._rows.lengths_R - self._rows.shared_R).sum())

    def __iter__(self) -> Iterator[MicroBatch]:
        return (_lay_out(self._rows, start, stop, self._counts) for start, stop in self._cuts)


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
    width = nodes_RT.shape[1]
    grids, place_N, before = [], np.zeros(nodes, np.int64), 0
    for is_square, queries, keys, rows_G in _alike(new_R, lengths_R, shared_R):
        from_Q, shared_G = np.arange(queries), shared_R[rows_G]
        first_G = nodes_RT[rows_G, shared_G]
        real_GQ = from_Q < new_R[rows_G][:, None]
        queries_GQ = np.where(real_GQ, first_G[:, None] + from_Q, 0)
        place_N[queries_GQ[real_GQ]] = before + np.flatnonzero(real_GQ)
        keys_GK = np.zeros((len(rows_G), keys), np.int64)
        keys_GK[:, : min(keys, width)] = nodes_RT[rows_G, :keys]
        grids.append(Grid(queries_RQ=queries_GQ, keys_RK=keys_GK, shared_R=None if is_square else shared_G))
        before += queries_GQ.size
    return tuple(grids), place_N


def _alike(new_R: Ints, lengths_R: Ints, shared_R: Ints) -> Iterator[tuple[bool, int, int, Ints]]:
    """Rows with new tokens, those that share a grid's shape together: square or not, queries, keys, rows."""
    rows = np.flatnonzero(new_R)
    sizes = _sizes(max(int(lengths_R.max()), _FEWEST_KEYS).bit_length())
    is_square = shared_R[rows] == 0
    keys = sizes[np.searchsorted(sizes, np.maximum(lengths_R[rows], _FEWEST_KEYS))]
    queries = np.where(is_square, keys, sizes[np.searchsorted(sizes, np.maximum(new_R[rows], _FEWEST_QUERIES))])
    shape = (is_square << 60) | (queries << 30) | keys
    for each in np.unique(shape):
        here = shape == each
        first = int(np.argmax(here))
        yield bool(is_square[first]), int(queries[first]), int(keys[first]), rows[here]


@lru_cache
def _sizes(bits: int) -> Ints:
    """What a grid may measure: 1, 2, 3, 4, 6, 8, 12, ... up to the power of two that has these bits less one."""
    return np.array(sorted({size for power in range(bits + 1) for size in (1 << power, 3 << power >> 1)}), np.int64)

"""The tree that a batch is read as: every row can be found in it, nothing is in it twice."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tinsmith_server.trainer.llama.layout import MicroBatch, MicroBatches
from tinsmith_server.trainer.ragged import Ragged

# Few different tokens, so that rows often begin alike, contain each other or are equal.
ROWS = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=9), min_size=1, max_size=12)


def ragged(rows: list[list[int]]) -> Ragged:
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    return Ragged(values=np.concatenate([np.array(row, np.int64) for row in rows]), offsets=offsets)


def path_of(piece: MicroBatch, node: int) -> list[int]:
    """The tokens from the beginning of a row to this node, as attention sees them."""
    row = piece.nodes_RT[piece.row_of_node_N[node], : piece.positions_N[node] + 1]
    assert row[-1] == node
    tokens: list[int] = piece.tokens_N[row].tolist()
    return tokens


@settings(max_examples=300, deadline=None)
@given(rows=ROWS, max_nodes=st.sampled_from([1, 7, 1000]), data=st.data())
def test_each_wanted_target_is_predicted_by_the_node_of_its_own_prefix(
    rows: list[list[int]], max_nodes: int, data: st.DataObject
) -> None:
    tokens = ragged(rows)
    size = len(tokens.values)
    counts = data.draw(st.none() | st.lists(st.booleans(), min_size=size, max_size=size).map(np.array))
    found = {}
    for piece in MicroBatches(tokens, counts, max_nodes=max_nodes):
        assert len(piece.tokens_N) <= max_nodes or len(piece.lengths_R) == 1
        assert (np.diff(piece.targets_P) > 0).all()
        paths = [tuple(path_of(piece, node)) for node in range(len(piece.tokens_N))]
        assert len(set(paths)) == len(paths)
        for target, output in zip(piece.targets_P, piece.output_of_target_P, strict=True):
            found[int(target)] = list(paths[piece.outputs_M[output]])
    wanted = range(size) if counts is None else np.flatnonzero(counts).tolist()
    assert sorted(found) == sorted(wanted)
    for target, path in found.items():
        row = tokens.row_of(target)
        start = int(tokens.offsets[row])
        assert path == tokens.values[start : target + 1].tolist()


@settings(max_examples=200, deadline=None)
@given(rows=ROWS)
def test_each_node_attends_once_to_itself_and_what_stands_before_it(rows: list[list[int]]) -> None:
    (piece,) = MicroBatches(ragged(rows), None, max_nodes=1000)
    seen = []
    for grid in piece.grids:
        row_count, queries = grid.queries_RQ.shape
        for row in range(row_count):
            for query in range(queries):
                shared = 0 if grid.shared_R is None else grid.shared_R[row]
                visible = np.arange(grid.keys_RK.shape[1]) <= shared + query
                seen.append((grid.queries_RQ[row, query], grid.keys_RK[row][visible].tolist()))
    for node, place in enumerate(piece.place_N):
        query, keys = seen[place]
        assert query == node
        row = piece.nodes_RT[piece.row_of_node_N[node]]
        assert keys == row[: piece.positions_N[node] + 1].tolist()


def test_shared_beginnings_and_equal_rows_are_read_once() -> None:
    rows = [[1, 2, 3, answer] for answer in (4, 5, 4, 4)]
    (piece,) = MicroBatches(ragged(rows), None, max_nodes=1000)
    assert len(piece.tokens_N) == 5


def test_what_stands_behind_the_last_wanted_target_is_not_read() -> None:
    rows = [[1, 2, 3, 4], [5, 6]]
    counts = np.array([False, True, False, False, False, False])
    (piece,) = MicroBatches(ragged(rows), counts, max_nodes=1000)
    assert piece.tokens_N.tolist() == [1, 2]
    assert list(MicroBatches(ragged(rows), np.zeros(6, bool), max_nodes=1000)) == []


def test_padding_is_bounded_by_the_tokens() -> None:
    """Rows of 1 and of 500 tokens don't meet in one grid."""
    rows = [[index % 7, index // 7] for index in range(49)] + [list(range(500))]
    (piece,) = MicroBatches(ragged(rows), None, max_nodes=10_000)
    cells = sum(grid.queries_RQ.size for grid in piece.grids)
    assert cells <= 4 * len(piece.tokens_N)

"""Tensors of the wire: what goes in comes out, and what has no place there is refused."""

import numpy as np
import pytest
import scipy.sparse
import torch
from google.protobuf.json_format import MessageToJson, Parse
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from tinsmith.arrays import (
    array,
    column_of,
    dense_and_offsets,
    flat_and_offsets,
    ragged,
    rows,
    sparse_of,
    tensor,
)
from tinsmith.types.v1 import (
    DTYPE_FLOAT32,
    DTYPE_INT32,
    DTYPE_INT64,
    Column,
    RaggedTensor,
    SparseRaggedTensor,
    Tensor,
)

LARGE = 9007199254740993
"""2^53 + 1, which float64 does not have."""
VALUES = [0, 1, 2, 100]


@pytest.mark.parametrize(
    ("kind", "wire"),
    [
        (np.float64, DTYPE_FLOAT32),
        (np.float32, DTYPE_FLOAT32),
        (np.float16, DTYPE_FLOAT32),
        (np.int64, DTYPE_INT64),
        (np.int32, DTYPE_INT32),
        (np.int16, DTYPE_INT64),
        (np.int8, DTYPE_INT64),
        (np.uint8, DTYPE_INT64),
        (np.uint32, DTYPE_INT64),
        (np.uint64, DTYPE_INT64),
        (np.bool_, DTYPE_INT64),
        (">f8", DTYPE_FLOAT32),
        (">i4", DTYPE_INT64),
    ],
)
def test_every_type_travels_as_one_of_three(kind: type, wire: int) -> None:
    """N-20"""
    values = np.array(VALUES).astype(kind)
    message = Tensor.FromString(tensor(values).SerializeToString())
    assert message.dtype == wire
    np.testing.assert_array_equal(array(message), values)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.int32, torch.bool])
def test_tensors_of_torch_travel_too(kind: torch.dtype) -> None:
    """N-20: bfloat16, which numpy lacks, as float32."""
    values = torch.tensor([0.0, 1.5, -3.0, 7.0]).to(kind)
    assert torch.equal(torch.from_numpy(array(tensor(values)).copy()), values.to(_widened(kind)))
    [row] = rows(ragged([values], np.float32))
    assert row.tolist() == values.float().tolist()


def _widened(kind: torch.dtype) -> torch.dtype:
    if kind is torch.int32:
        return kind
    return torch.float32 if kind.is_floating_point else torch.int64


@pytest.mark.parametrize("shape", [(), (1,), (4,), (2, 2), (2, 0, 3)])
def test_a_shape_survives_row_by_row(shape: tuple[int, ...]) -> None:
    """N-21: a scalar has no dimension."""
    values = np.arange(np.prod(shape, dtype=int), dtype=np.float32).reshape(shape)
    message = tensor(np.array(values, order="F"))
    assert tuple(message.shape) == shape
    assert np.frombuffer(message.data, "<f4").tolist() == values.ravel(order="C").tolist()
    np.testing.assert_array_equal(array(message), values)


@pytest.mark.parametrize("shape", [[2, 2], [2], [], [-1], [-1, -3], [3, 0]])
def test_a_shape_that_does_not_fit_is_refused(shape: list[int]) -> None:
    """N-21: three values are no 2 x 2, and a shape that is left out is that of a scalar."""
    message = Tensor(dtype=DTYPE_FLOAT32, shape=shape, data=np.zeros(3, "<f4").tobytes())
    with pytest.raises(ValueError, match="reshape"):
        array(message)


@pytest.mark.parametrize("values", [[1.5], [np.nan], [np.inf], [1e300], [-0.5, 1]])
def test_what_is_no_integer_does_not_become_one(values: list[float]) -> None:
    """N-22"""
    for row in (values, np.array(values)):
        with pytest.raises(ValueError, match="does not fit in int64"):
            ragged([[1], row], np.int64)


def test_whole_floats_become_integers_where_integers_are_asked_for() -> None:
    assert rows(ragged([[3.0], [], [-2.0, 5]], np.int64))[2].tolist() == [-2, 5]


@pytest.mark.parametrize("value", [1e39, -1e39, np.finfo(np.float64).max])
def test_what_is_too_large_does_not_become_infinite(value: float) -> None:
    """N-22"""
    for send in (lambda: tensor(value), lambda: tensor([0.0, value]), lambda: ragged([[value]], np.float32)):
        with pytest.raises(ValueError, match="does not fit in float32"):
            send()


@pytest.mark.parametrize(
    ("values", "kind"), [([2**31], np.int32), ([2**63], np.int64), ([-(2**70)], np.int64), (["7"], np.int64)]
)
def test_integers_that_do_not_fit_are_refused(values: list[int], kind: type) -> None:
    """N-22"""
    with pytest.raises(ValueError, match="fit"):
        ragged([values], kind)
    if kind is np.int64:
        with pytest.raises(ValueError, match="fit"):
            tensor(values)


@pytest.mark.parametrize("values", [["a"], [1j], [None], [[1], [2, 3]]])
def test_what_is_no_number_is_refused(values: list[object]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # numpy has its own words for ragged lists
        tensor(values)  # type: ignore[arg-type]


def test_nan_and_infinity_are_numbers_of_float32() -> None:
    """N-22: bytes carry them; whether a loss takes them is the trainer's business."""
    values = np.array([np.nan, np.inf, -np.inf, 0.0])
    back = array(Tensor.FromString(tensor(values).SerializeToString()))
    np.testing.assert_array_equal(back, values.astype(np.float32))
    np.testing.assert_array_equal(rows(ragged([values], np.float32))[0], back)


@pytest.mark.parametrize("value", [LARGE, -LARGE, 2**63 - 1, -(2**63)])
def test_large_integers_are_exact(value: int) -> None:
    """N-23: as protobuf and as its JSON, which the gateway speaks."""
    message = tensor([value])
    for sent in (Tensor.FromString(message.SerializeToString()), Parse(MessageToJson(message), Tensor())):
        assert array(sent).tolist() == [value]
    assert rows(ragged([[value], []], np.int64))[0].tolist() == [value]
    mixed = ragged([[value], [1.0]], np.int64)
    assert [row.tolist() for row in rows(mixed)] == [[value], [1]]


def test_one_value_of_four_rows_of_fifty() -> None:
    """N-24: the fixture of the hosted service's own client."""
    flat = np.zeros((4, 50), np.float32)
    flat[0, 1] = 1.0
    message = SparseRaggedTensor.FromString(sparse_of(flat, np.array([0, 4])).SerializeToString())
    assert np.frombuffer(message.entries, "<i8").tolist() == [0, 1, 1, 1, 1]
    assert np.frombuffer(message.columns, "<i8").tolist() == [1]
    assert np.frombuffer(message.data, "<f4").tolist() == [1.0]
    assert message.width == 50
    back, offsets = dense_and_offsets(message)
    np.testing.assert_array_equal(back, flat)
    assert offsets.tolist() == [0, 4]


MATRICES = arrays_of.arrays(
    np.float32, st.tuples(st.integers(1, 8), st.integers(1, 8)), elements=st.sampled_from([0.0, 0.0, 0.0, 1.5, -2.0])
)


@given(MATRICES)
def test_sparse_form_is_that_of_scipy(flat: np.ndarray) -> None:
    """N-24"""
    message, oracle = sparse_of(flat, np.array([0, len(flat)])), scipy.sparse.csr_array(flat)
    assert np.frombuffer(message.entries, "<i8").tolist() == oracle.indptr.tolist()
    assert np.frombuffer(message.columns, "<i8").tolist() == oracle.indices.tolist()
    assert np.frombuffer(message.data, "<f4").tolist() == oracle.data.tolist()


@given(MATRICES, st.sampled_from([0.0, 1.5, -float("inf")]))
def test_a_column_takes_the_form_with_fewer_numbers(flat: np.ndarray, pad_value: float) -> None:
    """N-24: (rows + 1) + 2 nnz < rows * columns, and either form says the same."""
    column = Column.FromString(column_of(flat, np.array([0, 1, len(flat)]), pad_value=pad_value).SerializeToString())
    stored = int((flat != pad_value).sum())
    is_sparse = len(flat) + 1 + 2 * stored < flat.size
    assert column.WhichOneof("values") == ("sparse" if is_sparse else "ragged")
    back, offsets = dense_and_offsets(column.sparse) if is_sparse else flat_and_offsets(column.ragged)
    np.testing.assert_array_equal(back, flat)
    assert offsets.tolist() == [0, 1, len(flat)]


def test_a_column_of_scalars_is_dense() -> None:
    assert column_of(np.zeros(100, np.float32), np.array([0, 100])).WhichOneof("values") == "ragged"


@pytest.mark.parametrize(
    "change",
    [
        {"entries": [0, 2, 1]},
        {"entries": [0, 1, 3]},
        {"entries": []},
        {"offsets": [0, 3]},
        {"columns": [0, 7]},
        {"columns": [0]},
        {"columns": [-1, 1]},
    ],
)
def test_sparse_parts_that_do_not_fit_are_refused(change: dict[str, list[int]]) -> None:
    """N-24"""
    message = sparse_of(np.array([[1.0, 0, 0], [0, 2.0, 0]], np.float32), np.array([0, 2]))
    for name, values in change.items():
        setattr(message, name, np.array(values, "<i8").tobytes())
    with pytest.raises(ValueError, match="must"):
        dense_and_offsets(message)


@pytest.mark.parametrize("size", [0, 1, 1_000_000])
def test_numbers_travel_as_their_bytes(size: int) -> None:
    """N-25: a million float32 in 4.1 MB."""
    values = np.random.default_rng(0).random(size, np.float32)
    for message in (tensor(values), ragged([values], np.float32)):
        assert 4 * size <= message.ByteSize() <= 4.1 * size + 60
    assert RaggedTensor.FromString(ragged([values], np.float32).SerializeToString()).data == values.tobytes()

"""Sparse columns against scipy's, and how much of them is unpacked."""

from typing import Any

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests.trainer.models import batch as random_batch
from tests.trainer.models import trained
from tests.trainer.test_oracle_matrix import FORMS, call, data_of, on_the_wire
from tinsmith.trainer.v1 import LossSpec
from tinsmith.types.v1 import DTYPE_INT32, DTYPE_INT64
from tinsmith_server.serving.errors import InvalidArgument
from tinsmith_server.trainer import objective, validation
from tinsmith_server.trainer.losses import CrossEntropy
from tinsmith_server.trainer.ragged import SparseRagged

MATRICES = arrays(
    np.float32, st.tuples(st.integers(1, 8), st.integers(1, 6)), elements=st.sampled_from([0.0, 1.0, -2.0])
)


def sparse_of(matrix: Any, pad_value: float = 0.0) -> SparseRagged:
    csr = scipy.sparse.csr_array(matrix)
    return SparseRagged(
        values=csr.data,
        columns=csr.indices.astype(np.int64),
        entries=csr.indptr.astype(np.int64),
        offsets=np.array([0, len(matrix)]),
        width=matrix.shape[1],
        pad_value=pad_value,
    )


@given(matrix=MATRICES, data=st.data())
def test_any_rows_are_those_of_the_dense_matrix(matrix: Any, data: st.DataObject) -> None:
    """N-24"""
    chosen = data.draw(st.lists(st.integers(0, len(matrix) - 1)))
    np.testing.assert_array_equal(sparse_of(matrix).dense(), matrix)
    np.testing.assert_array_equal(sparse_of(matrix).dense(np.array(chosen, np.int64)), matrix[chosen])


def test_what_is_not_stored_has_the_pad_value() -> None:
    """N-24: 4 x 50 with one entry"""
    matrix = np.zeros((4, 50), np.float32)
    matrix[0, 1] = 3
    column = sparse_of(matrix, pad_value=-7.0)
    assert (column.entries.tolist(), column.columns.tolist()) == ([0, 1, 1, 1, 1], [1])
    np.testing.assert_array_equal(column.dense(), np.where(matrix == 3, 3, -7))


def test_only_so_much_is_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    data = on_the_wire(data_of("cross_entropy", FORMS[2]), FORMS[2])
    monkeypatch.setattr(validation, "_MOST_DENSE_VALUES", 100)
    with pytest.raises(InvalidArgument) as refused:
        trained("qwen3").forward_backward(call(LossSpec(cross_entropy={}), data))
    assert refused.value.reason == "BATCH_TOO_LARGE"
    assert refused.value.metadata["column"] == "weights"


def test_so_much_is_unpacked_of_all_columns_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of a few bytes; a call may bring hundreds."""
    data = on_the_wire(data_of("cross_entropy", FORMS[3]), FORMS[3])
    size = (len(data.loss_inputs["weights"].sparse.entries) // 8 - 1) * data.loss_inputs["weights"].sparse.width
    monkeypatch.setattr(validation, "_MOST_DENSE_VALUES", size + 1)
    with pytest.raises(InvalidArgument) as refused:
        trained("qwen3").forward_backward(call(LossSpec(cross_entropy={}), data))
    assert (refused.value.reason, refused.value.metadata["values"]) == ("BATCH_TOO_LARGE", str(2 * size))


@pytest.mark.parametrize("pad_value", [0.5, 2.0**40, 2.0**70, np.inf, np.nan])
def test_integers_are_padded_with_integers(pad_value: float) -> None:
    data = on_the_wire(data_of("cross_entropy", FORMS[3]), FORMS[3])
    targets = data.loss_inputs["target_tokens"].sparse
    targets.data = np.frombuffer(targets.data, "<i8" if targets.dtype == DTYPE_INT64 else "<i4").astype("<i4").tobytes()
    targets.dtype = DTYPE_INT32
    targets.pad_value = pad_value
    with pytest.raises(InvalidArgument) as refused:
        trained("qwen3").forward_backward(call(LossSpec(cross_entropy={}), data))
    assert (refused.value.reason, refused.value.metadata["column"]) == ("BAD_TENSOR", "target_tokens")


def over_the_vocabulary() -> LossSpec:
    regularizer = {"name": "h", "kind": "REGULARIZER_KIND_ENTROPY", "weight": 0.1, "choices": {"over": "vocabulary"}}
    return LossSpec(cross_entropy={}, regularizers=[regularizer])


def test_micro_batches_are_small_where_the_whole_vocabulary_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    data = on_the_wire(random_batch(CrossEntropy()), FORMS[0])
    whole = trained("qwen3").forward_backward(call(over_the_vocabulary(), data))
    monkeypatch.setattr(objective, "_LOGPROBS_AT_ONCE", 97 * 20)
    model = trained("qwen3")
    assert len(model.prepare(call(over_the_vocabulary(), data), trains=True).pieces) > 3
    assert model.forward_backward(call(over_the_vocabulary(), data)).metrics == pytest.approx(whole.metrics, rel=1e-5)
    assert len(model.prepare(call(LossSpec(cross_entropy={}), data), trains=True).pieces) == 1


def test_a_datum_too_long_for_its_distributions_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data = on_the_wire(random_batch(CrossEntropy()), FORMS[0])
    monkeypatch.setattr(objective, "_MOST_LOGPROBS_A_DATUM", 97 * 39)
    with pytest.raises(InvalidArgument) as refused:
        trained("qwen3").forward_backward(call(over_the_vocabulary(), data))
    assert refused.value.reason == "BATCH_TOO_LARGE"
    assert refused.value.metadata == {"tokens": "40", "vocabulary": "97"}

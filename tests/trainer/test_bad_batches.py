"""Batches that are wrong are refused whole, with the datum and the column named, and leave no gradient."""

from typing import Any

import numpy as np
import pytest

from tests.trainer.calls import ROWS, batch, create, datum_list, forward_backward, optim_step
from tinsmith import TinsmithError
from tinsmith.aio import Suite
from tinsmith.arrays import ragged, tensor
from tinsmith.types.v1 import (
    Column,
    DatumBatch,
    DatumList,
    ImageChunk,
    InputChunk,
    RaggedTensor,
    SparseRaggedTensor,
    Tensor,
)

ONES = [[1.0] * len(row) for row in ROWS]


def column(rows: Any, dtype: Any = np.float32) -> Column:
    return Column(ragged=ragged(rows, dtype))


def changed(rows: list[list[float]], datum: int, place: int, value: float) -> list[list[float]]:
    copy = [list(row) for row in rows]
    copy[datum][place] = value
    return copy


def broken_offsets() -> Column:
    good = ragged(ONES, np.float32)
    offsets = np.array([0, 5, 4, 10], "<i8")
    return Column(ragged=RaggedTensor(dtype=good.dtype, data=good.data, offsets=offsets.tobytes()))


def sparse(columns: list[int], entries: list[int]) -> Column:
    return Column(
        sparse=SparseRaggedTensor(
            dtype=1,
            offsets=np.array([0, 5, 9, 10], "<i8").tobytes(),
            entries=np.array(entries, "<i8").tobytes(),
            columns=np.array(columns, "<i8").tobytes(),
            data=np.ones(len(columns), "<f4").tobytes(),
            width=2,
        )
    )


TARGETS_NK = column([np.ones((len(row), 2)) for row in ROWS], np.int64)
BAD: dict[str, tuple[DatumBatch, str, dict[str, str]]] = {
    "missing": (batch(weights=None), "MISSING_LOSS_INPUT", {"column": "weights"}),
    "unknown": (batch(advantages=column(ONES)), "UNKNOWN_LOSS_INPUT", {"column": "advantages"}),
    "empty": (batch([]), "EMPTY_BATCH", {}),
    "empty row": (batch([[1], [], [2]]), "BAD_TENSOR", {"column": "tokens", "datum": "1"}),
    "too long": (batch([[1], [2] * 513]), "SEQUENCE_TOO_LONG", {"column": "tokens", "datum": "1"}),
    "token": (batch([[1, 2], [3, 4, 9999]]), "TOKEN_OUT_OF_VOCABULARY", {"column": "tokens", "datum": "1"}),
    "negative token": (batch([[1, 2], [3], [-4]]), "TOKEN_OUT_OF_VOCABULARY", {"column": "tokens", "datum": "2"}),
    "target": (
        batch(target_tokens=column(changed(ROWS, 1, 2, 10**12), np.int64)),
        "TOKEN_OUT_OF_VOCABULARY",
        {"column": "target_tokens", "datum": "1"},
    ),
    "nan": (
        batch(weights=column(changed(ONES, 2, 0, np.nan))),
        "NON_FINITE_INPUT",
        {"column": "weights", "datum": "2"},
    ),
    "inf": (
        batch(weights=column(changed(ONES, 0, 4, np.inf))),
        "NON_FINITE_INPUT",
        {"column": "weights", "datum": "0"},
    ),
    "float targets": (batch(target_tokens=column(ROWS)), "BAD_TENSOR", {"column": "target_tokens"}),
    "integer weights": (batch(weights=column(ROWS, np.int64)), "BAD_TENSOR", {"column": "weights"}),
    "fewer rows": (batch(weights=column(ONES[:2])), "BAD_TENSOR", {"column": "weights"}),
    "other lengths": (
        batch(weights=column([[1.0] * 5, [1.0] * 3, [1.0] * 2])),
        "BAD_TENSOR",
        {"column": "weights", "datum": "1"},
    ),
    "offsets": (batch(weights=broken_offsets()), "BAD_TENSOR", {"column": "weights"}),
    "widths": (batch(target_tokens=TARGETS_NK), "BAD_TENSOR", {"column": "weights"}),
    "sparse entries": (
        batch(target_tokens=TARGETS_NK, weights=sparse([0, 1], [0, 5, 1, 1, 1, 1, 1, 1, 1, 1, 2])),
        "BAD_TENSOR",
        {"column": "weights"},
    ),
    "sparse columns": (
        batch(target_tokens=TARGETS_NK, weights=sparse([0, 2], [0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2])),
        "BAD_TENSOR",
        {"column": "weights"},
    ),
}


@pytest.mark.parametrize("case", BAD)
async def test_a_bad_batch_is_refused_and_leaves_nothing(suite: Suite, case: str) -> None:
    """N-21, N-22, T-10"""
    data, reason, metadata = BAD[case]
    model = await create(suite)
    with pytest.raises(TinsmithError) as refused:
        await suite.trainer.ForwardBackward(forward_backward(model, batch=data))
    assert (refused.value.code.name, refused.value.reason) == ("INVALID_ARGUMENT", reason)
    assert dict(refused.value.metadata) == metadata
    with pytest.raises(TinsmithError) as no_gradients:
        await suite.trainer.OptimStep(optim_step(model))
    assert no_gradients.value.reason == "NO_GRADIENTS"


def _list_with(change: Any) -> DatumList:
    data = datum_list()
    change(data.data[1])
    return data


def _image(datum: Any) -> None:
    datum.model_input.chunks.append(InputChunk(image=ImageChunk(data=b"x")))


def _odd_bytes(datum: Any) -> None:
    datum.model_input.chunks.append(InputChunk(token_ids=b"abc"))


def _wrong_shape(datum: Any) -> None:
    datum.loss_inputs["weights"].CopyFrom(Tensor(dtype=1, shape=[3], data=b"\0" * 8))


def _no_weights(datum: Any) -> None:
    del datum.loss_inputs["weights"]


def _other_type(datum: Any) -> None:
    datum.loss_inputs["weights"].CopyFrom(tensor(np.ones(4, np.int64)))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_image, "MODALITY_UNSUPPORTED"),
        (_odd_bytes, "BAD_TENSOR"),
        (_wrong_shape, "BAD_TENSOR"),
        (_no_weights, "BAD_TENSOR"),
        (_other_type, "BAD_TENSOR"),
    ],
)
async def test_a_bad_datum_is_named(suite: Suite, change: Any, reason: str) -> None:
    """T-12"""
    model = await create(suite)
    with pytest.raises(TinsmithError) as refused:
        await suite.trainer.ForwardBackward(forward_backward(model, list=_list_with(change)))
    assert refused.value.reason == reason
    assert refused.value.metadata["datum"] == "1"


async def test_int32_targets_are_taken_and_sparse_weights_are_what_they_stand_for(suite: Suite) -> None:
    """N-20, N-24"""
    model = await create(suite)
    wide = await suite.trainer.ForwardBackward(forward_backward(model))
    narrow = batch(target_tokens=column([[token + 1 for token in row] for row in ROWS], np.int32))
    assert (await suite.trainer.ForwardBackward(forward_backward(model, batch=narrow))).metrics == wide.metrics
    weights = sparse([0, 1], [0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2])
    dense = [np.zeros((len(row), 2)) for row in ROWS]
    dense[0][0, 0] = dense[2][0, 1] = 1
    answers = [
        await suite.trainer.ForwardBackward(
            forward_backward(model, batch=batch(target_tokens=TARGETS_NK, weights=values))
        )
        for values in (weights, column(dense))
    ]
    assert answers[0] == answers[1]

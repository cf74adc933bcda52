"""Requests with regularizers."""

import math
from typing import Any

import numpy as np

from tests.trainer.calls import ROWS, batch
from tests.trainer.regularizer_cases import FULL, TOKENS, TOP_K
from tinsmith.arrays import ragged
from tinsmith.trainer.v1 import LossSpec, Regularizer
from tinsmith.types.v1 import Column, DatumBatch, SparseRaggedTensor

VOCABULARY = 263
"""Of the model that the suite's fixture serves."""


def columns(over: str, vocabulary: int = VOCABULARY) -> dict[str, Column]:
    """Targets, weights and a reference of the shape that is read."""
    chance = np.random.default_rng(0)
    inner = {TOKENS: (), TOP_K: (3,), FULL: (vocabulary,)}[over]
    reference = [chance.normal(size=(len(row), *inner)) * 0.3 - 4 for row in ROWS]
    found = {"reference": Column(ragged=ragged(reference, np.float32))}
    if over == TOP_K:
        targets = [chance.integers(0, vocabulary, (len(row), 3)) for row in ROWS]
        found["target_tokens"] = Column(ragged=ragged(targets, np.int64))
        found["weights"] = Column(ragged=ragged([np.ones((len(row), 3)) for row in ROWS], np.float32))
    return found


def request_data(over: str, regularizer: Regularizer) -> DatumBatch:
    given = columns(over)
    if not regularizer.reference:
        del given["reference"]
    return batch(**given)


def regularized(*regularizers: Regularizer, **loss: Any) -> LossSpec:
    return LossSpec(**(loss or {"cross_entropy": {}}), regularizers=regularizers)


def sparse_reference(stored: int, pad_value: float) -> Column:
    """The first `stored` tokens of the vocabulary, alike, for each token."""
    tokens = sum(map(len, ROWS))
    return Column(
        sparse=SparseRaggedTensor(
            dtype=1,
            offsets=np.cumsum([0, *map(len, ROWS)]).astype("<i8").tobytes(),
            entries=(np.arange(tokens + 1) * stored).astype("<i8").tobytes(),
            columns=np.tile(np.arange(stored), tokens).astype("<i8").tobytes(),
            data=np.full(tokens * stored, -math.log(max(stored, 1)), "<f4").tobytes(),
            width=VOCABULARY,
            pad_value=pad_value,
        )
    )

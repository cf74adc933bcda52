"""Requests that the trainer tests send."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tinsmith.aio import Suite
from tinsmith.arrays import ragged, tensor
from tinsmith.trainer.v1 import (
    AdamParams,
    CreateModelRequest,
    CrossEntropyLoss,
    ForwardBackwardRequest,
    LossSpec,
    Model,
    OptimStepRequest,
)
from tinsmith.types.v1 import Column, Datum, DatumBatch, DatumList, InputChunk, LoraConfig, ModelInput

CROSS_ENTROPY = LossSpec(cross_entropy=CrossEntropyLoss())
ROWS = [[1, 2, 3, 4, 5], [1, 2, 3, 9], [7]]
ADAM = AdamParams(learning_rate=1e-2)


async def create(suite: Suite, model_id: str = "", **fields: Any) -> Model:
    """A fresh model on the random base model."""
    lora = LoraConfig(rank=4, alpha=8, seed=1)
    request = CreateModelRequest(**{"model_id": model_id, "base_model": "random", "lora": lora, **fields})
    return (await suite.trainer.CreateModel(request)).model


def batch(rows: Sequence[Sequence[int]] = ROWS, **columns: Any) -> DatumBatch:
    """A batch for cross-entropy: next tokens as targets, all weights one; columns replace these or come beside."""
    default: Mapping[str, Any] = {
        "target_tokens": Column(ragged=ragged([[token + 1 for token in row] for row in rows], np.int64)),
        "weights": Column(ragged=ragged([[1.0] * len(row) for row in rows], np.float32)),
    }
    given = {name: column for name, column in {**default, **columns}.items() if column is not None}
    return DatumBatch(tokens=ragged(rows, np.int32), loss_inputs=given)


def datum_list(rows: Sequence[Sequence[int]] = ROWS) -> DatumList:
    """The same as `batch`, one by one."""
    return DatumList(
        data=[
            Datum(
                model_input=ModelInput(chunks=[InputChunk(token_ids=np.array(row, "<i4").tobytes())]),
                loss_inputs={
                    "target_tokens": tensor(np.array(row, np.int64) + 1),
                    "weights": tensor(np.ones(len(row), np.float32)),
                },
            )
            for row in rows
        ]
    )


def forward_backward(model: Model, seq_id: int = 0, **fields: Any) -> ForwardBackwardRequest:
    """A ForwardBackward with cross-entropy on `batch()`."""
    data = {} if "list" in fields else {"batch": batch()}
    return ForwardBackwardRequest(
        **{"model_id": model.model_id, "seq_id": seq_id, "loss": CROSS_ENTROPY, **data, **fields}
    )


def optim_step(model: Model, seq_id: int = 0, adam: AdamParams = ADAM) -> OptimStepRequest:
    """An OptimStep."""
    return OptimStepRequest(model_id=model.model_id, seq_id=seq_id, adam=adam)

"""Batches and answers as the SDK has them. The only file of the backend that knows both."""

from collections.abc import Mapping

import numpy as np
import tinker
import torch

from tinsmith_server.serving.errors import Internal
from tinsmith_server.trainer.ragged import Array, Ragged
from tinsmith_server.trainer.request import AdamParams, Batch

_LOGPROBS = "logprobs"


def datums(batch: Batch) -> list[tinker.Datum]:
    """One datum a row. Columns of several targets a token travel sparse where that is shorter."""
    columns = {name: _rows(column) for name, column in batch.columns.items() if isinstance(column, Ragged)}
    return [
        tinker.Datum(
            model_input=tinker.ModelInput.from_ints(tokens.tolist()),
            loss_fn_inputs={name: _tensor(rows[number]) for name, rows in columns.items()},
        )
        for number, tokens in enumerate(_rows(batch.tokens))
    ]


def logprobs(output: tinker.ForwardBackwardOutput, targets: Ragged) -> Ragged:
    """Logprobs of the targets, float32, shaped like them. Internal with reason BACKEND_BAD_ANSWER when they are not
    there or have another shape."""
    rows = [_row(datum, targets.values.shape[1:]) for datum in output.loss_fn_outputs]
    if [len(row) for row in rows] != targets.lengths.tolist():
        raise _bad_answer("logprobs for other tokens than those it was sent")
    return Ragged(values=np.concatenate(rows), offsets=targets.offsets)


def metrics(given: Mapping[str, float] | None) -> dict[str, float]:
    """Figures of the service."""
    return {name: float(value) for name, value in (given or {}).items()}


def adam(params: AdamParams) -> tinker.AdamParams:
    """The optimizer's settings, all of them said."""
    return tinker.AdamParams(
        learning_rate=params.learning_rate,
        beta1=params.beta1,
        beta2=params.beta2,
        eps=params.eps,
        weight_decay=params.weight_decay,
        grad_clip_norm=params.grad_clip_norm,
    )


def _rows(column: Ragged) -> list[Array]:
    return np.split(column.values, column.offsets[1:-1])


def _tensor(values: Array) -> tinker.TensorData:
    if values.ndim == 2:
        return tinker.TensorData.from_torch_sparse(torch.from_numpy(values))
    return tinker.TensorData.from_numpy(values)


def _row(datum: Mapping[str, tinker.TensorData], inner: tuple[int, ...]) -> Array:
    if _LOGPROBS not in datum:
        raise _bad_answer("no logprobs")
    try:
        return datum[_LOGPROBS].to_numpy().astype(np.float32, copy=False).reshape(-1, *inner)
    except ValueError as error:
        raise _bad_answer("logprobs of another shape than the targets") from error


def _bad_answer(what: str) -> Internal:
    return Internal(f"the Tinker service answered {what}", reason="BACKEND_BAD_ANSWER")

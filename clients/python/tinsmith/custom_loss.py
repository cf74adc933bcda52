"""A loss of one's own, computed by the client from the model's logprobs. Needs numpy: `tinsmith[numpy]`.

    def loss(logprobs):  # one array a datum, float32 [tokens] or [tokens, K]
        return sum(float((row**2).sum()) for row in logprobs), [2 * row for row in logprobs]

    answer = forward_backward_custom(suite, model_id, batch, loss)

Forward gives the logprobs p; `loss` gives L(p) and dL/dp; ForwardBackward with cross-entropy and the weights -dL/dp
then has the gradient of L, since that of -sum w p by any parameter is sum dL/dp dp.

A loss that a server can compute needs one call instead of two: `CustomLoss` of the contract.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tinsmith import aio
from tinsmith._sync import Suite
from tinsmith.arrays import flat_and_offsets, ragged_of, rows
from tinsmith.trainer.v1 import (
    CrossEntropyLoss,
    ForwardBackwardRequest,
    ForwardBackwardResponse,
    ForwardRequest,
    ForwardResponse,
    LossSpec,
)
from tinsmith.types.v1 import Column, DatumBatch

__all__ = ["LossFunction", "forward_backward_custom", "forward_backward_custom_async"]

Array = npt.NDArray[Any]
LossFunction = Callable[[Sequence[Array]], tuple[float, Sequence[npt.ArrayLike]]]
"""Logprobs of each datum's targets -> the loss, and its gradient by them, one array a datum of the same shape."""

_TARGETS = "target_tokens"
_CROSS_ENTROPY = LossSpec(cross_entropy=CrossEntropyLoss())


def forward_backward_custom(
    suite: Suite, model_id: str, batch: DatumBatch, loss: LossFunction, *, seq_id: int = 0
) -> ForwardBackwardResponse:
    """Adds the gradients of `loss` to those that the model has accumulated.

    Of the batch's columns only "target_tokens" is used. With a `seq_id` the two calls are that one and the next; when
    `loss` raises, only the first is consumed. The answer has the logprobs, "loss:sum", which is `loss`'s own, and
    "surrogate_loss:sum", the server's of the second call.

    ValueError when the batch has no dense targets, when a gradient has not the shape of its logprobs or is not finite;
    TinsmithError as ForwardBackward.
    """
    seen = suite.trainer.Forward(_forward(model_id, batch, seq_id))
    value, request = _backward(model_id, batch, seq_id, seen, loss)
    return _answer(value, seen, suite.trainer.ForwardBackward(request))


async def forward_backward_custom_async(
    suite: aio.Suite, model_id: str, batch: DatumBatch, loss: LossFunction, *, seq_id: int = 0
) -> ForwardBackwardResponse:
    """As `forward_backward_custom`, for asyncio. `loss` runs on the event loop's thread."""
    seen = await suite.trainer.Forward(_forward(model_id, batch, seq_id))
    value, request = _backward(model_id, batch, seq_id, seen, loss)
    return _answer(value, seen, await suite.trainer.ForwardBackward(request))


def _forward(model_id: str, batch: DatumBatch, seq_id: int) -> ForwardRequest:
    # Asking a message's map for what it lacks would put it there.
    if _TARGETS not in batch.loss_inputs or not batch.loss_inputs[_TARGETS].HasField("ragged"):
        raise ValueError(f"the batch needs a ragged column {_TARGETS!r}")
    targets, offsets = flat_and_offsets(batch.loss_inputs[_TARGETS].ragged)
    weighted = _weighted(batch, np.zeros(targets.shape, np.float32), offsets)
    return ForwardRequest(model_id=model_id, seq_id=seq_id, loss=_CROSS_ENTROPY, batch=weighted)


def _backward(
    model_id: str, batch: DatumBatch, seq_id: int, seen: ForwardResponse, loss: LossFunction
) -> tuple[float, ForwardBackwardRequest]:
    logprobs = rows(seen.logprobs)
    value, gradients = loss(logprobs)
    weights = -_checked(gradients, logprobs)
    return float(value), ForwardBackwardRequest(
        model_id=model_id,
        seq_id=seq_id + 1 if seq_id else 0,
        loss=_CROSS_ENTROPY,
        batch=_weighted(batch, weights, np.frombuffer(seen.logprobs.offsets, "<i8")),
        omit_logprobs=True,
    )


def _checked(gradients: Sequence[npt.ArrayLike], logprobs: Sequence[Array]) -> Array:
    """The gradients laid end to end, float32."""
    found = [np.asarray(gradient, np.float32) for gradient in gradients]
    if [gradient.shape for gradient in found] != [row.shape for row in logprobs]:
        raise ValueError("the loss must give one gradient a datum, of the shape of its logprobs")
    flat = np.concatenate(found)
    if not np.isfinite(flat).all():
        raise ValueError("a gradient of the loss is not finite")
    return flat


def _weighted(batch: DatumBatch, weights: Array, offsets: Array) -> DatumBatch:
    """The batch's tokens and targets with these weights for cross-entropy."""
    columns = {_TARGETS: batch.loss_inputs[_TARGETS], "weights": Column(ragged=ragged_of(weights, offsets))}
    return DatumBatch(tokens=batch.tokens, loss_inputs=columns)


def _answer(value: float, seen: ForwardResponse, answer: ForwardBackwardResponse) -> ForwardBackwardResponse:
    metrics = {**answer.metrics, "surrogate_loss:sum": answer.metrics["loss:sum"], "loss:sum": value}
    return ForwardBackwardResponse(logprobs=seen.logprobs, metrics=metrics)

"""A bad call is refused in the same way whatever computes, and the model goes on (K-02)."""

from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest

from tests.conformance.calls import ROWS, batch, column, create, forward_backward, optim_step, train
from tests.conformance.worlds import World
from tinsmith.aio import Suite, TinsmithError
from tinsmith.trainer.v1 import CreateModelRequest, GetModelRequest, LoadStateRequest, Model, SaveStateRequest
from tinsmith.types.v1 import DatumBatch, LoraConfig

pytestmark = pytest.mark.asyncio(loop_scope="module")

_WEIGHTS = [np.ones(len(row)) for row in ROWS]
BAD_BATCHES: dict[str, tuple[Callable[[], DatumBatch], str]] = {
    "missing": (lambda: batch(weights=None), "MISSING_LOSS_INPUT"),
    "unknown": (lambda: batch(extra=column(_WEIGHTS, np.float32)), "UNKNOWN_LOSS_INPUT"),
    "NaN": (lambda: batch(weights=column([row * np.nan for row in _WEIGHTS], np.float32)), "NON_FINITE_INPUT"),
    "short": (lambda: batch(weights=column([row[:1] for row in _WEIGHTS], np.float32)), "BAD_TENSOR"),
    "integers": (lambda: batch(weights=column(_WEIGHTS, np.int64)), "BAD_TENSOR"),
    "nothing": (lambda: batch([]), "EMPTY_BATCH"),
    "no tokens": (lambda: batch([[1], []]), "BAD_TENSOR"),
    "long": (lambda: batch([[1] * 513]), "SEQUENCE_TOO_LONG"),
    "negative": (lambda: batch([[-1, 2]]), "TOKEN_OUT_OF_VOCABULARY"),
}


async def refusal(call: Awaitable[Any]) -> tuple[str, str]:
    """Code and reason with which a call is refused."""
    with pytest.raises(TinsmithError) as refused:
        await call
    return refused.value.code.name, refused.value.reason


@pytest.mark.parametrize("name", BAD_BATCHES)
async def test_bad_batch_is_refused_and_nothing_accumulated(trainer: World, name: str) -> None:
    make, reason = BAD_BATCHES[name]
    suite, model, twin = trainer.suite, await create(trainer), await create(trainer)
    assert await refusal(forward_backward(suite, model, batch=make(), seq_id=1)) == ("INVALID_ARGUMENT", reason)
    assert await refusal(optim_step(suite, model, seq_id=2)) == ("FAILED_PRECONDITION", "NO_GRADIENTS")
    assert await train(suite, model, 2) == await train(suite, twin, 2)


async def test_token_outside_the_vocabulary_is_refused_and_the_model_goes_on(trainer: World) -> None:
    suite, model, twin = trainer.suite, await create(trainer), await create(trainer)
    reason = "TOKEN_OUT_OF_VOCABULARY" if trainer.checks_vocabulary else "BACKEND_REFUSED"
    bad = batch([[1, 1_000_000]])
    assert await refusal(forward_backward(suite, model, batch=bad)) == ("INVALID_ARGUMENT", reason)
    assert await train(suite, model, 2) == await train(suite, twin, 2)


async def _base_model(suite: Suite, model: Model) -> object:
    return await suite.trainer.CreateModel(CreateModelRequest(base_model="nobody"))


async def _nothing_to_train(suite: Suite, model: Model) -> object:
    lora = LoraConfig(train_attention=False, train_mlp=False, train_unembedding=False)
    return await suite.trainer.CreateModel(CreateModelRequest(base_model="random", lora=lora))


async def _taken(suite: Suite, model: Model) -> object:
    return await suite.trainer.CreateModel(CreateModelRequest(base_model="random", model_id=model.model_id))


async def _unknown_model(suite: Suite, model: Model) -> object:
    return await suite.trainer.GetModel(GetModelRequest(model_id="nobody"))


async def _unknown_checkpoint(suite: Suite, model: Model) -> object:
    uri = f"tinsmith://{model.model_id}/training/never"
    return await suite.trainer.LoadState(LoadStateRequest(model_id=model.model_id, checkpoint_uri=uri))


async def _bad_uri(suite: Suite, model: Model) -> object:
    return await suite.trainer.LoadState(LoadStateRequest(model_id=model.model_id, checkpoint_uri="tinker://a/b/c"))


async def _bad_name(suite: Suite, model: Model) -> object:
    return await suite.trainer.SaveState(SaveStateRequest(model_id=model.model_id, name="../up"))


async def _no_gradients(suite: Suite, model: Model) -> object:
    return await optim_step(suite, model)


async def _gap(suite: Suite, model: Model) -> object:
    return await optim_step(suite, model, seq_id=5)


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (_base_model, ("NOT_FOUND", "BASE_MODEL_NOT_FOUND")),
        (_nothing_to_train, ("INVALID_ARGUMENT", "NOTHING_TO_TRAIN")),
        (_taken, ("ALREADY_EXISTS", "MODEL_EXISTS")),
        (_unknown_model, ("NOT_FOUND", "MODEL_NOT_FOUND")),
        (_unknown_checkpoint, ("NOT_FOUND", "CHECKPOINT_NOT_FOUND")),
        (_bad_uri, ("INVALID_ARGUMENT", "BAD_CHECKPOINT_URI")),
        (_bad_name, ("INVALID_ARGUMENT", "INVALID_REQUEST")),
        (_no_gradients, ("FAILED_PRECONDITION", "NO_GRADIENTS")),
        (_gap, ("ABORTED", "SEQUENCE_GAP")),
    ],
)
async def test_refused_alike(
    trainer: World, call: Callable[[Suite, Model], Awaitable[object]], expected: tuple[str, str]
) -> None:
    model = await create(trainer)
    assert await refusal(call(trainer.suite, model)) == expected
    await train(trainer.suite, model, 1)

"""Every call of the trainer that changes something may be sent again: it has one effect, and one answer."""

import asyncio
from collections.abc import Callable
from itertools import count
from typing import Any

import pytest

from tests.trainer.calls import ADAM, CROSS_ENTROPY, batch
from tinsmith.aio import Suite
from tinsmith.trainer.v1 import (
    CreateModelRequest,
    DeleteCheckpointRequest,
    DeleteModelRequest,
    ForwardBackwardRequest,
    ForwardRequest,
    GetCheckpointRequest,
    GetModelRequest,
    ListCheckpointsRequest,
    ListModelsRequest,
    LoadStateRequest,
    OptimStepRequest,
    PublishCheckpointRequest,
    SaveForSamplerRequest,
    SaveStateRequest,
)
from tinsmith.types.v1 import LoraConfig

MODEL = "again"
URI = f"tinsmith://{MODEL}/training/middle"
Identity = Callable[[], dict[str, Any]]


def by_seq_id() -> Identity:
    numbers = count(1)
    return lambda: {"seq_id": next(numbers)}


def by_request_id() -> Identity:
    numbers = count(1)
    return lambda: {"request_id": f"call {next(numbers)}"}


def calls(identity: Identity, *, life: str = "first") -> list[Any]:
    """The life of a model: each of the trainer's methods that has an identity, in one order."""
    lora = LoraConfig(rank=4, alpha=8, seed=1)

    def of_model(kind: type[Any], **fields: Any) -> Any:
        return kind(model_id=MODEL, **identity(), **fields)

    def step() -> list[Any]:
        return [
            of_model(ForwardBackwardRequest, loss=CROSS_ENTROPY, batch=batch()),
            of_model(OptimStepRequest, adam=ADAM),
        ]

    return [
        CreateModelRequest(request_id=f"{life} life", model_id=MODEL, base_model="random", lora=lora),
        *step(),
        of_model(ForwardRequest, loss=CROSS_ENTROPY, batch=batch()),
        of_model(SaveStateRequest, name="middle"),
        *step(),
        of_model(LoadStateRequest, checkpoint_uri=URI, load_optimizer=True),
        *step(),
        of_model(SaveForSamplerRequest),
        of_model(SaveForSamplerRequest, name="end"),
    ]


async def send(suite: Suite, request: Any) -> Any:
    return await getattr(suite.trainer, type(request).__name__.removesuffix("Request"))(request)


async def state(suite: Suite) -> list[Any]:
    """What is left: the model's step, and what each of its checkpoints holds."""
    model = (await suite.trainer.GetModel(GetModelRequest(model_id=MODEL))).model
    found = (await suite.checkpoints.ListCheckpoints(ListCheckpointsRequest(model_id=MODEL))).checkpoints
    files = sorted((one.kind, one.step, file.name, file.sha256) for one in found for file in one.files)
    return [model.step, model.last_seq_id, files]


async def forget(suite: Suite) -> None:
    await suite.trainer.DeleteModel(DeleteModelRequest(model_id=MODEL))
    for one in (await suite.checkpoints.ListCheckpoints(ListCheckpointsRequest(model_id=MODEL))).checkpoints:
        await suite.checkpoints.DeleteCheckpoint(DeleteCheckpointRequest(uri=one.uri))


async def lived(suite: Suite, requests: list[Any]) -> list[Any]:
    """The state after each request was sent once."""
    for request in requests:
        await send(suite, request)
    left = await state(suite)
    await forget(suite)
    return left


@pytest.mark.parametrize("identity", [by_seq_id, by_request_id])
async def test_calls_that_are_each_sent_three_times(suite: Suite, identity: Callable[[], Identity]) -> None:
    """R-12: twice at once, and once more when the first answer is there."""
    expected = await lived(suite, calls(identity()))
    for request in calls(identity(), life="second"):
        answers = [*await asyncio.gather(*(send(suite, request) for _ in range(2))), await send(suite, request)]
        assert answers[0] == answers[1] == answers[2], type(request).__name__
    assert await state(suite) == expected


@pytest.mark.parametrize("identity", [by_seq_id, by_request_id])
async def test_calls_that_are_sent_again_after_all_others(suite: Suite, identity: Callable[[], Identity]) -> None:
    """R-12: whatever has happened since, a repeat gets the first answer."""
    requests = calls(identity())
    answers = [await send(suite, request) for request in requests]
    before = await state(suite)
    assert [await send(suite, request) for request in requests] == answers
    assert await state(suite) == before


async def test_a_deletion_that_is_sent_again_deletes_once(suite: Suite) -> None:
    """R-12: also when a new model has taken the name in between."""
    create = CreateModelRequest(model_id=MODEL, base_model="random")
    await suite.trainer.CreateModel(create)
    delete = DeleteModelRequest(model_id=MODEL, request_id="delete")
    first = await suite.trainer.DeleteModel(delete)
    assert first.deleted
    await suite.trainer.CreateModel(create)
    assert await suite.trainer.DeleteModel(delete) == first
    assert [model.model_id for model in (await suite.trainer.ListModels(ListModelsRequest())).models] == [MODEL]


async def test_a_creation_without_a_name_that_is_sent_again_makes_one_model(suite: Suite) -> None:
    """R-12"""
    request = CreateModelRequest(base_model="random", request_id="create")
    answers = await asyncio.gather(*(suite.trainer.CreateModel(request) for _ in range(3)))
    assert answers[0] == answers[1] == answers[2]
    assert len((await suite.trainer.ListModels(ListModelsRequest())).models) == 1


async def test_checkpoint_calls_that_are_sent_again_succeed_and_have_one_effect(suite: Suite) -> None:
    """R-12"""
    await suite.trainer.CreateModel(CreateModelRequest(model_id=MODEL, base_model="random"))
    uri = (await suite.trainer.SaveState(SaveStateRequest(model_id=MODEL))).checkpoint.uri
    publish = PublishCheckpointRequest(uri=uri, published=True)
    assert [(await suite.checkpoints.PublishCheckpoint(publish)).checkpoint.published for _ in range(2)] == [True] * 2
    found = (await suite.checkpoints.GetCheckpoint(GetCheckpointRequest(uri=uri))).checkpoint
    assert found.published
    delete = DeleteCheckpointRequest(uri=uri)
    assert [(await suite.checkpoints.DeleteCheckpoint(delete)).deleted for _ in range(2)] == [True, False]

"""Calls that the suite makes, through the public client."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.conformance.worlds import BASE_MODEL, World
from tinsmith.aio import Suite
from tinsmith.arrays import flat_and_offsets, ragged
from tinsmith.sampler.v1 import ComputeLogprobsRequest, ModelRef, SampleRequest, SampleResponse, SamplingParams
from tinsmith.trainer.v1 import (
    AdamParams,
    CreateModelRequest,
    CrossEntropyLoss,
    ForwardBackwardRequest,
    ForwardBackwardResponse,
    ForwardRequest,
    ForwardResponse,
    LossSpec,
    Model,
    OptimStepRequest,
    OptimStepResponse,
    SaveForSamplerRequest,
)
from tinsmith.types.v1 import Column, DatumBatch, LoraConfig, StopCondition

Array = NDArray[Any]
CROSS_ENTROPY = LossSpec(cross_entropy=CrossEntropyLoss())
ADAM = AdamParams(learning_rate=1e-2, eps=1e-4)
"""With an eps above the size of a rounding error, which Adam would else turn into a whole step."""
ROWS = [[1, 2, 3, 4, 5], [1, 2, 3, 9], [7], [72, 101, 108, 108, 111, 33]]
PARAMS = {field.name for field in SamplingParams.DESCRIPTOR.fields}
_numbers = itertools.count()


async def create(world: World, **fields: Any) -> Model:
    """A fresh model."""
    lora = LoraConfig(rank=4, seed=1)
    request = CreateModelRequest(
        **{"model_id": f"m-{next(_numbers)}", "base_model": BASE_MODEL, "lora": lora, **fields}
    )
    return (await world.suite.trainer.CreateModel(request)).model


def column(values: Sequence[Array], dtype: type) -> Column:
    """A column of rows."""
    return Column(ragged=ragged(values, dtype))


def batch(rows: Sequence[Sequence[int]] = ROWS, **columns: Column | None) -> DatumBatch:
    """Examples for cross-entropy: the next token as target, all weights 1. Columns replace these, come beside or, when
    None, are left out."""
    given = {
        "target_tokens": column([np.array(row) + 1 for row in rows], np.int64),
        "weights": column([np.ones(len(row)) for row in rows], np.float32),
        **columns,
    }
    return DatumBatch(
        tokens=ragged(rows, np.int32), loss_inputs={name: each for name, each in given.items() if each is not None}
    )


async def forward(suite: Suite, model: Model, **fields: Any) -> ForwardResponse:
    """Forward with cross-entropy on `batch()`, unless other fields are given."""
    request = {"model_id": model.model_id, "loss": CROSS_ENTROPY, "batch": batch(), **fields}
    return await suite.trainer.Forward(ForwardRequest(**request))


async def forward_backward(suite: Suite, model: Model, **fields: Any) -> ForwardBackwardResponse:
    """ForwardBackward likewise."""
    request = {"model_id": model.model_id, "loss": CROSS_ENTROPY, "batch": batch(), **fields}
    return await suite.trainer.ForwardBackward(ForwardBackwardRequest(**request))


async def optim_step(suite: Suite, model: Model, **fields: Any) -> OptimStepResponse:
    """OptimStep with `ADAM`."""
    return await suite.trainer.OptimStep(OptimStepRequest(**{"model_id": model.model_id, "adam": ADAM, **fields}))


async def train(suite: Suite, model: Model, steps: int) -> list[float]:
    """Some steps; the losses before each."""
    losses = []
    for _ in range(steps):
        losses.append((await forward_backward(suite, model)).metrics["loss:sum"])
        await optim_step(suite, model)
    return losses


async def trained_weights(world: World, steps: int = 3) -> str:
    """The URI of sampler weights after some steps."""
    model = await create(world)
    await train(world.suite, model, steps)
    saved = await world.suite.trainer.SaveForSampler(SaveForSamplerRequest(model_id=model.model_id))
    return saved.checkpoint.uri


def values(message: Any) -> Array:
    """A ragged tensor's values, flat."""
    return flat_and_offsets(message)[0]


def sample_request(prompts: Sequence[Sequence[int]] | None, uri: str = "", **options: Any) -> SampleRequest:
    """A request; options are fields of SampleRequest and of SamplingParams."""
    params = {"max_tokens": 8, **{name: options.pop(name) for name in PARAMS & options.keys()}}
    if isinstance(params.get("stop"), dict):
        params["stop"] = StopCondition(**params["stop"])
    fields = {"prompts": None if prompts is None else ragged(prompts, np.int32), "seeds": [11], **options}
    return SampleRequest(model=ref(uri), params=SamplingParams(**params), **fields)


async def sample(world: World, prompts: Sequence[Sequence[int]], uri: str = "", **options: Any) -> SampleResponse:
    """Answers to `sample_request`."""
    return await world.suite.sampler.Sample(sample_request(prompts, uri, **options))


def logprobs_request(sequences: Sequence[Sequence[int]], uri: str = "", **fields: Any) -> ComputeLogprobsRequest:
    """A request for scores."""
    return ComputeLogprobsRequest(model=ref(uri), sequences=ragged(sequences, np.int32), **fields)


def ref(uri: str) -> ModelRef:
    """Weights by URI; empty is the base model."""
    return ModelRef(checkpoint_uri=uri) if uri else ModelRef(base_model=BASE_MODEL)

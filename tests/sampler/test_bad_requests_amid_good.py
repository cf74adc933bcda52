"""Bad requests among good ones are refused with what is wrong, and the good ones' answers are those they get alone."""

import asyncio
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.sampler.calls import bits, sample_request
from tinsmith import TinsmithError
from tinsmith.aio import Suite
from tinsmith.arrays import ragged
from tinsmith.sampler.v1 import ComputeLogprobsRequest, ModelRef, SampleRequest, SampleStreamRequest
from tinsmith.types.v1 import AudioChunk, ImageChunk, InputChunk, ModelInput, RaggedTensor

CONTEXT, VOCABULARY = 512, 263
GOOD = [
    sample_request([[number + 1, 7, 9], [number] * (number + 2)], num_samples=2, seeds=[number], max_tokens=12)
    for number in range(8)
]


def chunk(**content: Any) -> SampleRequest:
    return sample_request(None, inputs=[ModelInput(chunks=[InputChunk(**content)])])


def tensor(**changes: Any) -> SampleRequest:
    """Two prompts whose tensor has been changed on the wire."""
    request = sample_request([[1, 2], [3]])
    for name, value in changes.items():
        request.prompts.ClearField(name)
        request.prompts.MergeFrom(RaggedTensor(**{name: value}))
    return request


BAD: dict[str, tuple[SampleRequest, str, str]] = {
    # kind: request, code, reason
    "missing prompts": (sample_request(None), "INVALID_ARGUMENT", "EMPTY_PROMPT"),
    "empty prompt": (sample_request([[1], []]), "INVALID_ARGUMENT", "EMPTY_PROMPT"),
    "token": (sample_request([[1], [VOCABULARY]]), "INVALID_ARGUMENT", "TOKEN_OUT_OF_VOCABULARY"),
    "negative token": (sample_request([[-1]]), "INVALID_ARGUMENT", "TOKEN_OUT_OF_VOCABULARY"),
    "over-long prompt": (sample_request([[1] * CONTEXT]), "INVALID_ARGUMENT", "PROMPT_TOO_LONG"),
    "wrong shape": (tensor(offsets=np.array([0, 5], "<i8").tobytes()), "INVALID_ARGUMENT", "BAD_TENSOR"),
    "half a token": (tensor(data=b"abc"), "INVALID_ARGUMENT", "BAD_TENSOR"),
    "NaN temperature": (sample_request(temperature=math.nan), "INVALID_ARGUMENT", "INVALID_REQUEST"),
    "NaN bias": (sample_request(logit_bias={3: math.nan}), "INVALID_ARGUMENT", "INVALID_REQUEST"),
    "no tokens wanted": (sample_request(max_tokens=0), "INVALID_ARGUMENT", "INVALID_REQUEST"),
    "wrong model": (sample_request(base_model="nobody"), "NOT_FOUND", "BASE_MODEL_NOT_FOUND"),
    "no model": (SampleRequest(prompts=ragged([[1]], np.int32)), "INVALID_ARGUMENT", "INVALID_REQUEST"),
    "no such checkpoint": (
        sample_request(checkpoint_uri="tinsmith://nobody/sampler/x"),
        "NOT_FOUND",
        "CHECKPOINT_NOT_FOUND",
    ),
    "image": (chunk(image=ImageChunk(data=b"png")), "FAILED_PRECONDITION", "MODALITY_UNSUPPORTED"),
    "audio": (
        chunk(audio=AudioChunk(samples=b"", sample_rate_hz=16_000)),
        "FAILED_PRECONDITION",
        "MODALITY_UNSUPPORTED",
    ),
}


async def is_refused(suite: Suite, kind: str, *, stream: bool = False) -> None:
    request, code, reason = BAD[kind]
    with pytest.raises(TinsmithError) as refused:
        await send(suite, request, stream=stream)
    error = refused.value
    assert (error.code.name, error.reason) == (code, reason), error.message
    assert reason != "INVALID_REQUEST" or error.violations, "which field it is"


async def send(suite: Suite, request: SampleRequest, *, stream: bool) -> None:
    if not stream:
        await suite.sampler.Sample(request)
        return
    async for _ in suite.sampler.SampleStream(SampleStreamRequest(sample=request)):
        pass


async def answers(suite: Suite) -> list[tuple[bytes, ...]]:
    """Of the good requests, one after the other."""
    return [bits(await suite.sampler.Sample(request)) for request in GOOD]


@pytest.mark.parametrize("kind", BAD)
async def test_one_bad_request_changes_nothing(suite: Suite, kind: str) -> None:
    """T-12"""
    expected = await answers(suite)
    good = [asyncio.create_task(suite.sampler.Sample(request)) for request in GOOD]
    await asyncio.gather(is_refused(suite, kind), is_refused(suite, kind, stream=True))
    assert [bits(answer) for answer in await asyncio.gather(*good)] == expected
    assert await answers(suite) == expected


async def test_all_bad_requests_between_and_beside_good_ones_change_nothing(suite: Suite) -> None:
    expected = await answers(suite)
    crowd = [suite.sampler.Sample(request) for request in GOOD] + [is_refused(suite, kind) for kind in BAD]
    found = await asyncio.gather(*crowd)
    assert [bits(answer) for answer in found[: len(GOOD)]] == expected


LOGPROBS: dict[str, tuple[Callable[[ComputeLogprobsRequest], None], str]] = {
    "token": (lambda request: request.sequences.CopyFrom(ragged([[VOCABULARY]], np.int32)), "TOKEN_OUT_OF_VOCABULARY"),
    "over-long": (lambda request: request.sequences.CopyFrom(ragged([[1] * 513], np.int32)), "PROMPT_TOO_LONG"),
    "targets": (lambda request: request.targets.CopyFrom(ragged([[1]], np.int32)), "BAD_TENSOR"),
    "nothing": (lambda request: request.ClearField("sequences"), "INVALID_REQUEST"),
    "wrong model": (lambda request: request.model.CopyFrom(ModelRef(base_model="nobody")), "BASE_MODEL_NOT_FOUND"),
}


@pytest.mark.parametrize("kind", LOGPROBS)
async def test_a_bad_request_for_logprobs_changes_nothing(suite: Suite, kind: str) -> None:
    good = ComputeLogprobsRequest(model=ModelRef(base_model="random"), sequences=ragged([[1, 2, 3], [4]], np.int32))
    expected = await suite.sampler.ComputeLogprobs(good)
    bad = ComputeLogprobsRequest()
    bad.CopyFrom(good)
    change, reason = LOGPROBS[kind]
    change(bad)
    with pytest.raises(TinsmithError) as refused:
        await suite.sampler.ComputeLogprobs(bad)
    assert refused.value.reason == reason
    after = await suite.sampler.ComputeLogprobs(good)
    assert after.SerializeToString(deterministic=True) == expected.SerializeToString(deterministic=True)

"""What the sampler refuses, with the code, the reason and the words that `sampler_service.proto` promises."""

import math
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import pytest

from tests.sampler.calls import sample_request
from tinsmith import TinsmithError
from tinsmith.aio import Suite
from tinsmith.arrays import ragged
from tinsmith.sampler.v1 import sampler_service_pb2 as pb
from tinsmith.types.v1 import data_pb2, tensor_pb2

INVALID, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND


def with_tensor(tensor: tensor_pb2.RaggedTensor) -> pb.SampleRequest:
    """A request with these prompts."""
    wanted = sample_request()
    wanted.prompts.CopyFrom(tensor)
    return wanted


def changed(**fields: Any) -> pb.SampleRequest:
    """A request of two prompts with three tokens whose tensor has been changed on the wire."""
    tensor = ragged([[1, 2], [3]], np.int32)
    for name, value in fields.items():
        tensor.ClearField(name)
        tensor.MergeFrom(tensor_pb2.RaggedTensor(**{name: value}))
    return with_tensor(tensor)


def with_chunk(**chunk: Any) -> pb.SampleRequest:
    """A request by `inputs`, the second of which is this chunk."""
    text = data_pb2.InputChunk(token_ids=np.array([1], "<i4").tobytes())
    inputs = [data_pb2.ModelInput(chunks=[each]) for each in (text, data_pb2.InputChunk(**chunk))]
    return sample_request(None, inputs=inputs)


def with_both() -> pb.SampleRequest:
    """Prompts, and inputs beside them."""
    wanted = sample_request()
    wanted.inputs.extend(with_chunk(token_ids=b"").inputs)
    return wanted


BAD_REQUESTS: dict[str, tuple[Callable[[], pb.SampleRequest], grpc.StatusCode, str, str]] = {
    # name: request, code, reason, what the message names
    "no prompts": (lambda: sample_request(None), INVALID, "EMPTY_PROMPT", "prompts"),
    "no rows": (lambda: sample_request([]), INVALID, "EMPTY_PROMPT", "prompts"),
    "an empty prompt": (lambda: sample_request([[1], [], [2]]), INVALID, "EMPTY_PROMPT", "prompts[1]"),
    "a token too high": (lambda: sample_request([[1], [5, 263]]), INVALID, "TOKEN_OUT_OF_VOCABULARY", "prompts[1]"),
    "a negative token": (lambda: sample_request([[1], [-1]]), INVALID, "TOKEN_OUT_OF_VOCABULARY", "token -1"),
    "a prompt as long as the context": (lambda: sample_request([[1] * 512]), INVALID, "PROMPT_TOO_LONG", "512"),
    "int64 prompts": (
        lambda: with_tensor(ragged([[1]], np.int64)), INVALID, "BAD_TENSOR", "DTYPE_INT32",
    ),
    "half a token": (lambda: changed(data=b"abc"), INVALID, "BAD_TENSOR", "prompts"),
    "tokens beyond the offsets": (lambda: changed(data=b"\0" * 16), INVALID, "BAD_TENSOR", "offsets"),
    "half an offset": (lambda: changed(offsets=b"\0" * 12), INVALID, "BAD_TENSOR", "prompts"),
    "falling offsets": (
        lambda: changed(offsets=np.array([0, 4, 3], "<i8").tobytes()), INVALID, "BAD_TENSOR", "offsets",
    ),
    "offsets that wrap": (
        lambda: changed(offsets=np.array([0, -(2**63), 3], "<i8").tobytes()), INVALID, "BAD_TENSOR", "offsets",
    ),
    "prompts of pairs": (lambda: changed(inner_shape=[1]), INVALID, "BAD_TENSOR", "dimension"),
    "a shape past all bounds": (lambda: changed(inner_shape=[2**62, 2**62]), INVALID, "BAD_TENSOR", "prompts"),
    "no element type": (lambda: changed(dtype=0), INVALID, "INVALID_REQUEST", "prompts.dtype"),
    "prompts and inputs": (with_both, INVALID, "BAD_TENSOR", "inputs"),
    "an image": (
        lambda: with_chunk(image=data_pb2.ImageChunk(data=b"png")),
        grpc.StatusCode.FAILED_PRECONDITION, "MODALITY_UNSUPPORTED", "inputs[1]",
    ),
    "audio": (
        lambda: with_chunk(audio=data_pb2.AudioChunk(samples=b"", sample_rate_hz=1)),
        grpc.StatusCode.FAILED_PRECONDITION, "MODALITY_UNSUPPORTED", "audio",
    ),
    "half a token in a chunk": (lambda: with_chunk(token_ids=b"abc"), INVALID, "BAD_TENSOR", "inputs[1]"),
    "too few seeds": (lambda: sample_request(seeds=[1, 2]), INVALID, "INVALID_REQUEST", "seeds"),
    "too many answers": (lambda: sample_request([[1]] * 5, num_samples=4096), INVALID, "TOO_MANY_ANSWERS", "20480"),
    "more likeliest tokens than memory": (
        lambda: sample_request([[1]], num_samples=4096, max_tokens=500, top_logprobs=1000),
        INVALID, "TOO_MANY_LOGPROBS", "top_logprobs",
    ),
    "more likeliest prompt tokens than memory": (
        lambda: sample_request([[1] * 500] * 200, top_prompt_logprobs=1024),
        INVALID, "TOO_MANY_LOGPROBS", "top_prompt_logprobs",
    ),
    "no limit": (lambda: sample_request(max_tokens=0), INVALID, "INVALID_REQUEST", "params.max_tokens"),
    "a negative temperature": (lambda: sample_request(temperature=-1), INVALID, "INVALID_REQUEST", "temperature"),
    "a temperature that is no number": (
        lambda: sample_request(temperature=math.nan), INVALID, "INVALID_REQUEST", "temperature",
    ),
    "top_p 0": (lambda: sample_request(top_p=0), INVALID, "INVALID_REQUEST", "params.top_p"),
    "top_p that is no number": (lambda: sample_request(top_p=math.nan), INVALID, "INVALID_REQUEST", "params.top_p"),
    "top_k below 0": (lambda: sample_request(top_k=-1), INVALID, "INVALID_REQUEST", "params.top_k"),
    "min_p above 1": (lambda: sample_request(min_p=1.5), INVALID, "INVALID_REQUEST", "params.min_p"),
    "an infinite penalty": (
        lambda: sample_request(presence_penalty=math.inf), INVALID, "INVALID_REQUEST", "presence_penalty",
    ),
    "a bias that is no number": (
        lambda: sample_request(logit_bias={3: math.nan}), INVALID, "INVALID_REQUEST", "params.logit_bias",
    ),
    "a bias of no token": (
        lambda: sample_request(logit_bias={-3: 1.0}), INVALID, "TOKEN_OUT_OF_VOCABULARY", "params.logit_bias",
    ),
    "an allowed token that is none": (
        lambda: sample_request(allowed_token_ids=[263]), INVALID, "TOKEN_OUT_OF_VOCABULARY", "allowed_token_ids",
    ),
    "a stop token that is none": (
        lambda: sample_request(stop={"token_ids": [999]}), INVALID, "TOKEN_OUT_OF_VOCABULARY", "params.stop.token_ids",
    ),
    "an empty stop string": (
        lambda: sample_request(stop={"strings": ["a", ""]}), INVALID, "INVALID_REQUEST", "params.stop.strings",
    ),
    "a model that is not served": (
        lambda: sample_request(base_model="llama"), NOT_FOUND, "BASE_MODEL_NOT_FOUND", "random (setting base_models)",
    ),
    "no model": (lambda: pb.SampleRequest(), INVALID, "INVALID_REQUEST", "model"),
    "a URI that is none": (
        lambda: sample_request(checkpoint_uri="file:///etc/passwd"), INVALID, "BAD_CHECKPOINT_URI", "tinsmith://",
    ),
    "a URI out of the store": (
        lambda: sample_request(checkpoint_uri="tinsmith://../sampler/x"), INVALID, "BAD_CHECKPOINT_URI", "tinsmith://",
    ),
    "a checkpoint that is not there": (
        lambda: sample_request(checkpoint_uri="tinsmith://m/sampler/x"),
        NOT_FOUND, "CHECKPOINT_NOT_FOUND", "//m/sampler/x",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_REQUESTS)
async def test_a_bad_request_is_refused_with_what_is_wrong(suite: Suite, name: str) -> None:
    make, code, reason, named = BAD_REQUESTS[name]
    with pytest.raises(TinsmithError) as caught:
        await suite.sampler.Sample(make())
    assert (caught.value.code, caught.value.reason) == (code, reason)
    assert named in caught.value.message


async def test_an_error_names_the_prompt_for_programs_too(suite: Suite) -> None:
    with pytest.raises(TinsmithError) as caught:
        await suite.sampler.Sample(sample_request([[1], [5, 300]]))
    assert caught.value.metadata == {"prompt": "1", "token": "300"}
    assert caught.value.violations[0].field == "prompts[1]"


async def test_a_stream_refuses_what_sample_refuses(suite: Suite) -> None:
    with pytest.raises(TinsmithError) as caught:
        await anext(suite.sampler.SampleStream(pb.SampleStreamRequest(sample=sample_request([[1], []]))))
    assert (caught.value.code, caught.value.reason) == (INVALID, "EMPTY_PROMPT")


@pytest.mark.parametrize("field", ["prompt_logprobs", "top_prompt_logprobs", "top_logprobs"])
async def test_what_is_not_streamed_is_refused(suite: Suite, field: str) -> None:
    request = pb.SampleStreamRequest(sample=sample_request(**{field: 1}))
    with pytest.raises(TinsmithError) as caught:
        await anext(suite.sampler.SampleStream(request))
    assert caught.value.reason == "NOT_STREAMED"

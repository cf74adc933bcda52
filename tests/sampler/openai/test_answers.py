"""Answers through a server are those of the model: at temperature 0 token for token what the local backend gives."""

import asyncio
import math
from collections import defaultdict
from typing import Any

import grpc
import numpy as np
import pytest

from tests.sampler.calls import PROMPTS, sample_request
from tests.sampler.openai.conftest import Serve, World
from tests.sampler.openai.server import ModelServer
from tinsmith import TinsmithError
from tinsmith.aio import Suite
from tinsmith.arrays import ragged, rows
from tinsmith.sampler.v1 import sampler_service_pb2 as pb
from tinsmith.types.v1 import data_pb2

GREEDY: dict[str, Any] = {"temperature": 0.0, "max_tokens": 40}
SEQUENCES = ([5, 6, 7, 8], [9], [200, 3])


async def both(world: World, **options: Any) -> tuple[pb.SampleResponse, pb.SampleResponse]:
    """The same request, answered through the server and by the local backend."""
    request = sample_request(**options)
    return await world.remote.sampler.Sample(request), await world.local.sampler.Sample(request)


def assert_close(found: Any, expected: Any, *, equal_nan: bool = False) -> None:
    """Two ragged columns of logprobs."""
    for one, other in zip(rows(found), rows(expected), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4, equal_nan=equal_nan)


@pytest.mark.parametrize(
    "options",
    [
        {"num_samples": 2},
        {"ignore_eos": True, "max_tokens": 1000, "prompts": [[72, 105]]},
        {"stop": {"token_ids": list(range(50))}},
        {"stop": {"strings": ["a", "bc", "<|im_start|>"]}, "max_tokens": 200},
        {"ignore_eos": True, "temperature": 1.0, "top_k": 1},
    ],
    ids=["plain", "to the end of the context", "stop ids", "stop strings", "top-k 1"],
)
async def test_greedy_answers_are_those_of_the_local_backend(world: World, options: dict[str, Any]) -> None:
    """K-03: token ids in and out."""
    found, expected = await both(world, **GREEDY | {"return_text": True} | options)
    assert found.tokens == expected.tokens
    assert found.stop_reasons == expected.stop_reasons
    assert found.texts == expected.texts
    assert found.weights_version == expected.weights_version == "random"
    assert found.usage.completion_tokens == expected.usage.completion_tokens
    assert_close(found.logprobs, expected.logprobs)


async def test_scores_of_prompts_and_likeliest_tokens_are_those_of_the_local_backend(world: World) -> None:
    """K-03: logprobs, prompt_logprobs."""
    options = {"prompt_logprobs": True, "top_prompt_logprobs": 4, "top_logprobs": 3, "num_samples": 2}
    found, expected = await both(world, **GREEDY | options)
    assert_close(found.prompt_logprobs, expected.prompt_logprobs, equal_nan=True)
    for column in ("top_prompt_logprobs", "top_logprobs"):
        assert getattr(found, column).token_ids == getattr(expected, column).token_ids
        assert_close(getattr(found, column).logprobs, getattr(expected, column).logprobs)


async def test_logprobs_of_drawn_tokens_are_those_of_the_distribution_they_were_drawn_from(world: World) -> None:
    """At temperature 1 the model's own, which the local backend computes of the same tokens."""
    found = await world.remote.sampler.Sample(sample_request(num_samples=2, max_tokens=12, ignore_eos=True))
    whole = [[*PROMPTS[number // 2], *answer.tolist()] for number, answer in enumerate(rows(found.tokens))]
    request = pb.ComputeLogprobsRequest(model=pb.ModelRef(base_model="random"), sequences=ragged(whole, np.int32))
    expected = await world.local.sampler.ComputeLogprobs(request)
    for own, scores in zip(rows(found.logprobs), rows(expected.logprobs), strict=True):
        np.testing.assert_allclose(own, scores[-12:], atol=1e-4)


async def test_allowed_tokens_and_biases_reach_the_server(world: World) -> None:
    found, _ = await both(world, allowed_token_ids=[7, 9], max_tokens=20, temperature=0.7, ignore_eos=True)
    assert {token for row in rows(found.tokens) for token in row.tolist()} <= {7, 9}
    assert math.isclose(sum(np.exp(rows(found.logprobs)[0][:1])), 0.5, abs_tol=0.5)
    found, _ = await both(world, logit_bias={33: 100.0}, max_tokens=5)
    assert {token for row in rows(found.tokens) for token in row.tolist()} == {33}


async def test_a_seed_repeats_its_answers_and_others_give_others(world: World) -> None:
    async def answers(seed: int) -> list[bytes]:
        request = sample_request([[5, 6]], seeds=[seed], num_samples=4, max_tokens=12, ignore_eos=True)
        return [row.tobytes() for row in rows((await world.remote.sampler.Sample(request)).tokens)]

    assert await answers(-1) == await answers(-1), "vLLM's seed -1 means none"
    drawn = [answer for seed in range(4) for answer in await answers(seed)]
    assert len(set(drawn)) == 16, "neighbouring seeds must not share answers"


async def test_a_stream_adds_up_to_the_whole_and_begins_before_the_end(world: World) -> None:
    options = {"num_samples": 3, "max_tokens": 60, "temperature": 1.5, "stop": {"token_ids": list(range(20))}}
    whole = await world.remote.sampler.Sample(sample_request(return_text=True, **options))
    request = pb.SampleStreamRequest(sample=sample_request(**options))
    *pieces, last = [message async for message in world.remote.sampler.SampleStream(request)]
    assert len(pieces) > 1
    assert last.usage.completion_tokens == whole.usage.completion_tokens
    assert last.weights_version == "random"
    answers = defaultdict[int, list[pb.SampleDelta]](list)
    for delta in (delta for message in pieces for delta in message.deltas):
        answers[delta.index].append(delta)
    for index, tokens in enumerate(rows(whole.tokens)):
        deltas = answers[index]
        assert b"".join(delta.token_ids for delta in deltas) == tokens.tobytes()
        assert sum(len(delta.logprobs) for delta in deltas) == 4 * len(tokens)
        assert "".join(delta.text for delta in deltas) == whole.texts[index]
        assert deltas[-1].stop_reason == whole.stop_reasons[index]
        assert {delta.stop_reason for delta in deltas[:-1]} <= {data_pb2.STOP_REASON_UNSPECIFIED}


async def test_logprobs_of_sequences_are_those_of_the_local_backend(world: World) -> None:
    """K-03: through prompt_logprobs."""
    request = pb.ComputeLogprobsRequest(
        model=pb.ModelRef(base_model="random"), sequences=ragged(SEQUENCES, np.int32), top_logprobs=3
    )
    found, expected = [await suite.sampler.ComputeLogprobs(request) for suite in (world.remote, world.local)]
    assert_close(found.logprobs, expected.logprobs, equal_nan=True)
    assert found.top_logprobs.token_ids == expected.top_logprobs.token_ids
    assert found.weights_version == "random"


async def test_models_are_listed_as_the_local_backend_does(world: World) -> None:
    """K-03: /models. The number of parameters is not known here."""
    found, expected = [await suite.sampler.ListModels(pb.ListModelsRequest()) for suite in (world.remote, world.local)]
    for model in expected.models:
        model.parameters = 0
    assert found == expected


async def refused(suite: Suite, **options: Any) -> TinsmithError:
    with pytest.raises(TinsmithError) as caught:
        await suite.sampler.Sample(sample_request(**options))
    return caught.value


async def test_what_a_request_may_not_ask_is_refused_as_by_the_local_backend(world: World) -> None:
    for options in (
        {"prompts": [[1], []]},
        {"prompts": [[1, 100_000]]},
        {"prompts": [[1] * 512]},
        {"base_model": "other"},
        {"checkpoint_uri": "tinsmith://none/sampler/x"},
        {"stop": {"token_ids": [1 << 30]}},
    ):
        found, expected = await refused(world.remote, **options), await refused(world.local, **options)
        assert (found.code, found.reason, found.metadata) == (expected.code, expected.reason, expected.metadata)


async def test_what_only_the_server_refuses_comes_with_its_words(world: World) -> None:
    error = await refused(world.remote, frequency_penalty=7.0)
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "BACKEND_REFUSED")
    assert "frequency_penalty must be in [-2, 2]" in error.message


async def test_a_sequence_that_fills_the_context_is_too_long_for_a_server(world: World) -> None:
    """It has to draw a token to score a prompt."""
    request = pb.ComputeLogprobsRequest(model=pb.ModelRef(base_model="random"), sequences=ragged([[1] * 512], np.int32))
    with pytest.raises(TinsmithError) as caught:
        await world.remote.sampler.ComputeLogprobs(request)
    assert caught.value.reason == "PROMPT_TOO_LONG"


async def test_targets_are_beyond_a_server(remote: Suite) -> None:
    request = pb.ComputeLogprobsRequest(
        model=pb.ModelRef(base_model="random"),
        sequences=ragged([[5, 6]], np.int32),
        targets=ragged([[[1], [2]]], np.int32),
    )
    with pytest.raises(TinsmithError) as caught:
        await remote.sampler.ComputeLogprobs(request)
    assert (caught.value.code, caught.value.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "BACKEND_UNSUPPORTED")
    assert caught.value.metadata["parameter"] == "targets"


async def test_nothing_is_left_to_the_defaults_of_the_server(remote: Suite, server: ModelServer) -> None:
    """vLLM and SGLang fill in what is not said from the model's generation configuration."""
    await remote.sampler.Sample(sample_request([[1, 2]]))
    body = server.bodies[-1]
    assert {name: body[name] for name in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")} == {
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
    }
    assert body["frequency_penalty"] == body["presence_penalty"] == 0


async def test_prompts_travel_as_one_request_each_at_once(serve: Serve, server: ModelServer) -> None:
    async with serve(server) as remote:
        before = len(server.bodies)
        await remote.sampler.Sample(sample_request(num_samples=8))
        assert [body["n"] for body in server.bodies[before:]] == [8] * 4
        await asyncio.gather(*(remote.sampler.Sample(sample_request()) for _ in range(10)))
        assert len(server.bodies) == before + 44

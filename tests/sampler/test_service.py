"""The sampler's gRPC service: what `sampler_service.proto` promises, field by field and error by error."""

import asyncio
import math
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.sampler.calls import PROMPTS, bits, sample_request
from tests.support import random_tokenizer
from tinsmith import TinsmithError
from tinsmith.aio import Suite
from tinsmith.arrays import flat_and_offsets, ragged, rows
from tinsmith.sampler.v1 import sampler_service_pb2 as pb
from tinsmith.types.v1 import data_pb2, queue_pb2

INVALID = grpc.StatusCode.INVALID_ARGUMENT
Serve = Callable[..., AbstractAsyncContextManager[Suite]]


def forward(model_directory: Path, tokens: list[int]) -> torch.Tensor:
    """log softmax after each position, by `transformers`."""
    model = AutoModelForCausalLM.from_pretrained(model_directory)
    with torch.inference_mode():
        return model(torch.tensor([tokens])).logits[0].log_softmax(-1)


async def test_an_answer_has_all_that_was_asked_for(suite: Suite, model_directory: Path) -> None:
    """T-03."""
    wanted = sample_request(
        num_samples=3,
        prompt_logprobs=True,
        top_prompt_logprobs=2,
        top_logprobs=2,
        return_text=True,
        temperature=0.0,
        ignore_eos=True,
        seeds=[4, 5, 6, 7],
    )
    found = await suite.sampler.Sample(wanted)
    assert list(found.seeds) == [4, 5, 6, 7]
    assert found.weights_version == "random"
    assert (found.usage.prompt_tokens, found.usage.completion_tokens) == (9, 12 * 8)
    assert found.usage.cached_prompt_tokens == 2
    assert list(found.stop_reasons) == [data_pb2.STOP_REASON_LENGTH] * 12
    answers = rows(found.tokens)
    assert list(found.texts) == [random_tokenizer().decode(row, skip_special_tokens=True) for row in answers]
    for number, (prompt, scores) in enumerate(zip(PROMPTS, rows(found.prompt_logprobs), strict=True)):
        answer = answers[3 * number]
        expected = forward(model_directory, [*prompt, *answer.tolist()])
        assert math.isnan(scores[0])
        assert scores[1:] == pytest.approx(expected[range(len(prompt) - 1), prompt[1:]].tolist(), abs=1e-4)
        own = expected[len(prompt) - 1 : -1]
        assert answer.tolist() == own.argmax(-1).tolist()
        assert rows(found.logprobs)[3 * number] == pytest.approx(own.amax(-1).tolist(), abs=1e-4)
        assert rows(found.top_logprobs.logprobs)[3 * number] == pytest.approx(own.topk(2).values.numpy(), abs=1e-4)
        top = rows(found.top_prompt_logprobs.token_ids)[number]
        assert top[1:].tolist() == expected[: len(prompt) - 1].topk(2).indices.tolist()


async def test_what_was_not_asked_for_is_absent(suite: Suite) -> None:
    found = await suite.sampler.Sample(sample_request())
    assert len(found.stop_reasons) == 4, "no number of samples means one"
    for field in ("prompt_logprobs", "top_prompt_logprobs", "top_logprobs"):
        assert not found.HasField(field)
    assert not found.texts


async def test_one_seed_serves_all_prompts_and_none_is_chosen_and_told(suite: Suite) -> None:
    one = await suite.sampler.Sample(sample_request(seeds=[9], num_samples=2))
    assert list(one.seeds) == [9] * 4
    assert bits(one) == bits(await suite.sampler.Sample(sample_request(seeds=[9] * 4, num_samples=2)))
    free = await suite.sampler.Sample(sample_request(seeds=[], num_samples=2))
    assert len(set(free.seeds)) == 4
    again = await suite.sampler.Sample(sample_request(seeds=list(free.seeds), num_samples=2))
    assert bits(free) == bits(again)


async def test_inputs_of_text_chunks_are_prompts(suite: Suite) -> None:
    chunks = [[np.array(part, "<i4").tobytes() for part in (prompt[:1], prompt[1:])] for prompt in PROMPTS]
    inputs = [data_pb2.ModelInput(chunks=[data_pb2.InputChunk(token_ids=ids) for ids in prompt]) for prompt in chunks]
    wanted = sample_request(None, inputs=inputs)
    assert bits(await suite.sampler.Sample(wanted)) == bits(await suite.sampler.Sample(sample_request()))


async def test_a_prompt_one_short_of_the_context_has_room_for_one_token(suite: Suite) -> None:
    found = await suite.sampler.Sample(sample_request([[1] * 511], max_tokens=10, ignore_eos=True))
    assert len(rows(found.tokens)[0]) == 1
    assert list(found.stop_reasons) == [data_pb2.STOP_REASON_LENGTH]


SEQUENCES = ([5, 6, 7, 8], [9], [200, 3])


def logprobs_request(**fields: Any) -> pb.ComputeLogprobsRequest:
    values = {"sequences": ragged(SEQUENCES, np.int32), **fields}
    return pb.ComputeLogprobsRequest(model=pb.ModelRef(base_model="random"), **values)


async def test_logprobs_of_sequences_equal_the_forward_pass(suite: Suite, model_directory: Path) -> None:
    """T-03: their sum equals that of forward() within 1e-4."""
    found = await suite.sampler.ComputeLogprobs(logprobs_request(top_logprobs=3))
    assert found.weights_version == "random"
    for sequence, scores, top in zip(SEQUENCES, rows(found.logprobs), rows(found.top_logprobs.logprobs), strict=True):
        expected = forward(model_directory, sequence)[:-1]
        assert np.nansum(scores) == pytest.approx(
            expected[range(len(sequence) - 1), sequence[1:]].sum().item(), abs=1e-4
        )
        assert math.isnan(scores[0])
        assert np.isneginf(top[0]).all()
        assert top[1:] == pytest.approx(expected.topk(3).values.numpy(), abs=1e-4)


async def test_logprobs_of_targets_judge_the_next_token(suite: Suite, model_directory: Path) -> None:
    targets = [[[token, 262 - token] for token in sequence] for sequence in SEQUENCES]
    found = await suite.sampler.ComputeLogprobs(logprobs_request(targets=ragged(targets, np.int32)))
    flat, _ = flat_and_offsets(found.logprobs)
    assert flat.shape == (7, 2)
    for sequence, wanted, scores in zip(SEQUENCES, targets, rows(found.logprobs), strict=True):
        expected = forward(model_directory, sequence).gather(1, torch.tensor(wanted))
        assert scores == pytest.approx(expected.numpy(), abs=1e-4)


@pytest.mark.parametrize(
    ("fields", "reason", "named"),
    [
        ({"sequences": ragged([], np.int32)}, "EMPTY_PROMPT", "sequences"),
        ({"sequences": ragged([[1], []], np.int32)}, "EMPTY_PROMPT", "sequences[1]"),
        ({"sequences": ragged([[1] * 513], np.int32)}, "PROMPT_TOO_LONG", "513"),
        ({"sequences": ragged([[-7]], np.int32)}, "TOKEN_OUT_OF_VOCABULARY", "token -7"),
        ({"targets": ragged([[1], [2], [3]], np.int32)}, "BAD_TENSOR", "targets"),
        ({"targets": ragged([[[1]], [[2]], [[3]]], np.int32)}, "BAD_TENSOR", "targets"),
        ({"targets": ragged([[[300]] * 4, [[2]], [[3]] * 2], np.int32)}, "TOKEN_OUT_OF_VOCABULARY", "targets[0]"),
        ({"top_logprobs": -1}, "INVALID_REQUEST", "top_logprobs"),
        ({"sequences": ragged([[1] * 500] * 99, np.int32), "top_logprobs": 1024}, "TOO_MANY_LOGPROBS", "top_logprobs"),
    ],
)
async def test_bad_sequences_and_targets_are_refused(
    suite: Suite, fields: dict[str, Any], reason: str, named: str
) -> None:
    with pytest.raises(TinsmithError) as caught:
        await suite.sampler.ComputeLogprobs(logprobs_request(**fields))
    assert (caught.value.code, caught.value.reason) == (INVALID, reason)
    assert named in caught.value.message


async def test_models_are_listed_page_by_page(serve: Serve, model_directory: Path) -> None:
    async with serve(base_models=",".join(f"{name}={model_directory}" for name in ("b", "c", "a"))) as suite:
        first = await suite.sampler.ListModels(pb.ListModelsRequest(page_size=2))
        assert [model.name for model in first.models] == ["a", "b"]
        [last] = (
            await suite.sampler.ListModels(pb.ListModelsRequest(page_size=2, page_token=first.next_page_token))
        ).models
        assert (last.name, last.context_length, last.vocabulary_size, last.loaded) == ("c", 512, 263, True)
        assert last.architecture == "Qwen3ForCausalLM"
        assert last.parameters == AutoModelForCausalLM.from_pretrained(model_directory).num_parameters()
        everything = await suite.sampler.ListModels(pb.ListModelsRequest())
        assert (len(everything.models), everything.next_page_token) == (3, "")
        for token in ("?", "é", "AA", "/w=="):
            with pytest.raises(TinsmithError) as caught:
                await suite.sampler.ListModels(pb.ListModelsRequest(page_token=token))
            assert caught.value.reason in ("BAD_PAGE_TOKEN",), token


def endless(prompts: int = 1) -> pb.SampleRequest:
    """Takes seconds, unless it is cancelled."""
    return sample_request([[1, 2]] * prompts, num_samples=64, max_tokens=500, ignore_eos=True)


async def test_a_full_queue_refuses_and_says_when_to_retry(serve: Serve) -> None:
    async with serve(max_running=1, max_waiting=1) as suite:
        watching = suite.sampler.WatchQueue(pb.WatchQueueRequest())
        assert (await anext(watching)).status.state == queue_pb2.QUEUE_STATE_ACTIVE
        busy = [asyncio.create_task(suite.sampler.Sample(endless())) for _ in range(2)]
        async for message in watching:
            if (message.status.running, message.status.waiting) == (1, 1):
                break
        assert message.status.state == queue_pb2.QUEUE_STATE_PAUSED_CAPACITY
        assert message.status.reason
        with pytest.raises(TinsmithError) as caught:
            await suite.sampler.Sample(sample_request())
        assert caught.value.code == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert caught.value.reason == "QUEUE_FULL"
        assert caught.value.retry_after_s
        for task in busy:
            task.cancel()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_cancelled_call_frees_the_sampler(serve: Serve, stream: bool) -> None:
    async with serve(max_running=1) as suite, asyncio.timeout(60):
        watching = suite.sampler.WatchQueue(pb.WatchQueueRequest())
        if stream:
            answers = suite.sampler.SampleStream(pb.SampleStreamRequest(sample=endless(50)))
            await anext(answers)
            await answers.aclose()
        else:
            task = asyncio.create_task(suite.sampler.Sample(endless(50)))
            async for message in watching:
                if message.status.running:
                    break
            task.cancel()
        async for message in watching:
            if not message.status.running:
                break
        await suite.sampler.Sample(sample_request())


async def test_a_deadline_frees_the_sampler(serve: Serve) -> None:
    async with serve(max_running=1) as suite, asyncio.timeout(60):
        with pytest.raises(TinsmithError) as caught:
            await suite.sampler.Sample(endless(50), timeout=0.2)
        assert caught.value.code == grpc.StatusCode.DEADLINE_EXCEEDED
        await suite.sampler.Sample(sample_request())


async def test_two_clients_see_the_queue_fill_and_clear(serve: Serve) -> None:
    """R-07: the reason and the wait are told while requests wait, and nothing of it when none does."""
    async with serve(max_batch_rows=64) as suite, asyncio.timeout(60):
        watching = [suite.sampler.WatchQueue(pb.WatchQueueRequest()) for _ in range(2)]
        seen = [(await anext(watch)).status for watch in watching]
        assert [status.state for status in seen] == [queue_pb2.QUEUE_STATE_ACTIVE] * 2
        busy = [asyncio.create_task(suite.sampler.Sample(endless())) for _ in range(100)]

        async def until(state: int) -> list[queue_pb2.QueueStatus]:
            found = []
            for watch in watching:
                async for message in watch:
                    if message.status.state == state:
                        found.append(message.status)
                        break
            return found

        for status in await until(queue_pb2.QUEUE_STATE_PAUSED_CAPACITY):
            assert "KV memory" in status.reason
            assert status.waiting > 0
            assert status.running > 0
            assert status.estimated_wait.ToMilliseconds() > 0
        for task in busy:
            task.cancel()
        for status in await until(queue_pb2.QUEUE_STATE_ACTIVE):
            assert (status.reason, status.waiting) == ("", 0)


async def test_a_request_that_could_never_fit_is_refused_by_name(serve: Serve) -> None:
    async with serve(kv_bytes=1 << 16) as suite:
        with pytest.raises(TinsmithError) as caught:
            await suite.sampler.Sample(sample_request([[1, 2]], max_tokens=500))
        assert (caught.value.code, caught.value.reason) == (INVALID, "KV_BUDGET_EXCEEDED")
        assert int(caught.value.metadata["needed"]) > int(caught.value.metadata["places"])
        await suite.sampler.Sample(sample_request([[1, 2]], max_tokens=5))


async def test_a_conversations_next_turn_finds_its_pages_in_the_cache(serve: Serve) -> None:
    turns = [list(range(70)), [*range(70), *range(60, 130)]]
    async with serve() as suite:
        for turn in turns:
            warm = await suite.sampler.Sample(sample_request([turn]))
    async with serve(prefix_cache_bytes=0) as suite:
        cold = await suite.sampler.Sample(sample_request([turns[1]]))
    assert (warm.usage.cached_prompt_tokens, cold.usage.cached_prompt_tokens) == (64, 0)
    assert bits(warm) == bits(cold)

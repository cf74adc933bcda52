"""What benchmarks ask of the sampler through the public client."""

import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tinsmith.aio import Suite
from tinsmith.arrays import ragged
from tinsmith.sampler.v1 import ModelRef, SampleRequest, SampleStreamRequest, SamplingParams

Prompts = Sequence[NDArray[np.int32]]


def sample_request(model: ModelRef, prompts: Prompts, *, answers: int, tokens: int) -> SampleRequest:
    """Answers of exactly so many tokens."""
    return SampleRequest(
        model=model,
        prompts=ragged(prompts, np.int32),
        num_samples=answers,
        params=SamplingParams(max_tokens=tokens, ignore_eos=True),
        seeds=[1],
    )


async def ask(suite: Suite, model: ModelRef, prompts: Prompts, *, answers: int, tokens: int) -> None:
    await suite.sampler.Sample(sample_request(model, prompts, answers=answers, tokens=tokens))


async def stream(suite: Suite, model: ModelRef, prompt: NDArray[np.int32], *, tokens: int) -> tuple[float, float]:
    """Seconds to the first token of one streamed answer, and to its end."""
    began = time.perf_counter()
    first = 0.0
    request = SampleStreamRequest(sample=sample_request(model, [prompt], answers=1, tokens=tokens))
    async for message in suite.sampler.SampleStream(request):
        if not first and any(delta.token_ids for delta in message.deltas):
            first = time.perf_counter() - began
    return first, time.perf_counter() - began


def random_prompts(chance: np.random.Generator, vocabulary: int, lengths: Sequence[int]) -> Prompts:
    """New ones at each call, so that no cache knows them."""
    return [chance.integers(0, vocabulary, length, np.int32) for length in lengths]

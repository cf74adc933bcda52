"""The sampler: answers to prompts."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tinsmith.aio import Suite
from tinsmith.sampler.v1 import ListModelsRequest, ModelRef, SampleRequest, SamplingParams
from tinsmith.types.v1 import StopReason
from tinsmith_server.orchestrator.peers.caller import Caller
from tinsmith_server.orchestrator.peers.failures import check_served
from tinsmith_server.orchestrator.peers.renderer import Prompts
from tinsmith_server.orchestrator.peers.wire import from_message, to_message
from tinsmith_server.orchestrator.ragged import Ragged


@dataclass(frozen=True, kw_only=True, slots=True)
class Answers:
    """Answers, prompt by prompt."""

    tokens: Ragged
    """int32, one row an answer; a matched stop token is included."""
    logprobs: Ragged
    """float32, of those tokens under the distribution that they were drawn from."""
    truncated: NDArray[np.bool_]
    """Which answers were cut off by the token limit."""


class Sampler:
    """Samples from the run's weights."""

    def __init__(self, suite: Suite, call: Caller) -> None:
        self._suite = suite
        self._call = call

    async def knows(self, base_model: str) -> None:
        """NotFound with reason BASE_MODEL_NOT_FOUND unless the sampler serves the base model."""
        names: list[str] = []
        request = ListModelsRequest(page_size=500)
        while base_model not in names:
            answer = await self._call("sampler", self._suite.sampler.ListModels, request)
            names += [model.name for model in answer.models]
            request.page_token = answer.next_page_token
            if not request.page_token:
                break
        check_served("sampler", base_model, names)

    async def answer(
        self,
        sampler_uri: str,
        prompts: Prompts,
        *,
        num_samples: int,
        seeds: Sequence[int],
        max_tokens: int,
        temperature: float,
    ) -> Answers:
        """`num_samples` answers to each prompt; answer i of prompt p draws from (seeds[p], i)."""
        request = SampleRequest(
            model=ModelRef(checkpoint_uri=sampler_uri),
            prompts=to_message(prompts.tokens),
            num_samples=num_samples,
            params=SamplingParams(max_tokens=max_tokens, temperature=temperature, stop=prompts.stop),
            seeds=seeds,
        )
        answer = await self._call("sampler", self._suite.sampler.Sample, request)
        reasons = np.fromiter(answer.stop_reasons, np.int8, len(answer.stop_reasons))
        return Answers(
            tokens=from_message(answer.tokens),
            logprobs=from_message(answer.logprobs),
            truncated=reasons == StopReason.STOP_REASON_LENGTH,
        )

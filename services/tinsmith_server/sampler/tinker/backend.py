"""Answers and scores from a Tinker service.

One request to the service a prompt, all at once; it bounds and queues them itself. The SDK has no streams, so a stream
tells each answer whole, as soon as its prompt is answered.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import TypeVar

import numpy as np
import tinker
from numpy.typing import NDArray

from tinsmith_server.models import BaseModel
from tinsmith_server.sampler.backend import Delta, ModelSummary, Versioned
from tinsmith_server.sampler.request import Answers, LogprobsRequest, SampleRequest, Scores, Usage
from tinsmith_server.sampler.tinker.answers import answers_of, deltas_of, scores_of, usage_of
from tinsmith_server.sampler.tinker.clients import Clients, Weights
from tinsmith_server.sampler.tinker.in_flight import InFlight
from tinsmith_server.sampler.tinker.parameters import check_supported, needs_tokenizer, service_params
from tinsmith_server.sampler.tinker.tokenizer import Tokenizer
from tinsmith_server.sampler.validation import check_logprobs, check_sample
from tinsmith_server.serving import QueueStatus
from tinsmith_server.storage import CheckpointStore
from tinsmith_server.tinker_client.connection import Connection
from tinsmith_server.tinker_client.models import served_models

T = TypeVar("T")


class TinkerBackend:
    """See `backend.Backend`. The locations of the base models are the service's names."""

    def __init__(
        self,
        base_models: Mapping[str, BaseModel],
        connection: Connection,
        *,
        store: CheckpointStore,
        max_answers: int,
        max_requests: int,
    ) -> None:
        self._wanted, self._connection = base_models, connection
        self._clients = Clients(connection, store)
        self._max_answers = max_answers
        self._in_flight = InFlight(max_requests)

    async def start(self) -> None:
        """Begins a session. Errors as `Connection.open` and `served_models`."""
        await self._connection.open()
        self._clients.serve(await served_models(self._connection, self._wanted))

    async def stop(self) -> None:
        await self._connection.close()

    async def sample(self, request: SampleRequest) -> Versioned[Answers]:
        with self._in_flight.one():
            weights, tokenizer = await self._prepare(request, with_text=request.return_text)
            prompts = range(len(request.prompts))
            responses = await _all([self._answer(weights, request, row, tokenizer) for row in prompts])
            answers = await asyncio.to_thread(answers_of, request, responses, tokenizer)
            return Versioned(result=answers, weights_version=weights.version)

    async def stream(self, request: SampleRequest) -> AsyncGenerator[Sequence[Delta] | Versioned[Usage], None]:
        async with AsyncExitStack() as stack:
            stack.enter_context(self._in_flight.one())
            weights, tokenizer = await self._prepare(request, with_text=True)
            assert tokenizer is not None, "text is asked for"
            rows = {
                asyncio.create_task(self._answer(weights, request, row, tokenizer)): row
                for row in range(len(request.prompts))
            }
            stack.callback(_cancel, list(rows))
            waiting = set(rows)
            while waiting:
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in sorted(done, key=lambda task: rows[task]):
                    yield await asyncio.to_thread(deltas_of, request, rows[task], task.result(), tokenizer)
            usage = usage_of(request, [task.result() for task in rows])
            yield Versioned(result=usage, weights_version=weights.version)

    async def logprobs(self, request: LogprobsRequest) -> Versioned[Scores]:
        with self._in_flight.one():
            weights = await self._clients.find(request.model)
            check_logprobs(weights.base, request)
            responses = await _all([self._score(weights, request, row) for row in range(len(request.sequences))])
            scores = await asyncio.to_thread(scores_of, request, responses)
            return Versioned(result=scores, weights_version=weights.version)

    def models(self) -> Sequence[ModelSummary]:
        return [
            ModelSummary(
                name=base.name,
                parameters=0,
                context_length=base.known_context,
                vocabulary_size=0,
                architecture="",
                loaded=True,
            )
            for _, base in sorted(self._clients.bases().items())
        ]

    def watch(self) -> AsyncGenerator[QueueStatus, None]:
        return self._in_flight.watch.statuses()

    async def _prepare(self, request: SampleRequest, *, with_text: bool) -> tuple[Weights, Tokenizer | None]:
        """Finds the weights, checks the request, and loads the tokenizer if it is needed."""
        weights = await self._clients.find(request.model)
        check_sample(weights.base, request, self._max_answers)
        check_supported(request.params)
        wanted = with_text or needs_tokenizer(request.params)
        return weights, await self._clients.tokenizer(weights) if wanted else None

    async def _answer(
        self, weights: Weights, request: SampleRequest, row: int, tokenizer: Tokenizer | None
    ) -> tinker.SampleResponse:
        future = weights.client.sample(
            _input(request.prompts[row]),
            request.num_samples,
            service_params(request.params, int(request.seeds[row]), tokenizer),
            include_prompt_logprobs=request.prompt_logprobs,
            topk_prompt_logprobs=request.top_prompt_logprobs,
            topk_sample_logprobs=request.top_logprobs,
        )
        return await self._connection.result(future)

    async def _score(self, weights: Weights, request: LogprobsRequest, row: int) -> tinker.SampleResponse:
        """Scores come with the prompt of a sample, of one token that is not looked at.

        The service judges targets from the second token on, by the tokens before it. Ours are judged after each token,
        the last included, so one more token is sent, whichever.
        """
        sequence, targets = request.sequences[row], None
        if request.targets is not None:
            targets = tinker.TensorData.from_numpy(request.targets[row].astype(np.int64))
            sequence = np.append(sequence, sequence[-1:])
        future = weights.client.sample(
            _input(sequence),
            1,
            tinker.SamplingParams(max_tokens=1),
            include_prompt_logprobs=True,
            topk_prompt_logprobs=request.top_logprobs,
            target_prompt_logprobs=targets,
        )
        return await self._connection.result(future)


def _input(tokens: NDArray[np.generic]) -> tinker.ModelInput:
    return tinker.ModelInput.from_ints(tokens.tolist())


async def _all(works: Sequence[Awaitable[T]]) -> list[T]:
    """The results in order. When one fails, the others are ended."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        return await asyncio.gather(*tasks)
    finally:
        _cancel(tasks)


def _cancel(tasks: Sequence["asyncio.Future[T]"]) -> None:
    """Ends what still runs. What failed beside the first failure is nobody's news."""
    for task in tasks:
        if not task.cancel() and not task.cancelled():
            task.exception()

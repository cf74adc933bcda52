"""Answers and scores from vLLM, SGLang or another server that speaks OpenAI's /completions with token ids.

A request becomes one HTTP request a prompt, or one an answer, all at once as far as there are places.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from tinsmith_server.sampler.backend import Delta, ModelSummary, Versioned
from tinsmith_server.sampler.checkpoints import CheckpointReader
from tinsmith_server.sampler.deltas import batched
from tinsmith_server.sampler.openai import asks, assembly
from tinsmith_server.sampler.openai.adapters import AdapterFolder, AdapterShelf
from tinsmith_server.sampler.openai.answers import Piece, PromptScores, piece_of
from tinsmith_server.sampler.openai.asks import Ask
from tinsmith_server.sampler.openai.assembly import Answered, Arrived, DeltaWriter
from tinsmith_server.sampler.openai.client import Client
from tinsmith_server.sampler.openai.discovery import Wanted, discover
from tinsmith_server.sampler.openai.failures import ModelGone, bad_answer, unavailable
from tinsmith_server.sampler.openai.messages import parse_event
from tinsmith_server.sampler.openai.queue import RequestQueue, Turn
from tinsmith_server.sampler.openai.served_model import ServedModel
from tinsmith_server.sampler.openai.weights import Weights, WeightsFinder
from tinsmith_server.sampler.request import Answers, LogprobsRequest, ModelRef, SampleRequest, Scores, StopReason, Usage
from tinsmith_server.sampler.validation import check_logprobs, check_sample
from tinsmith_server.serving import QueueStatus
from tinsmith_server.storage import CheckpointStore

T = TypeVar("T")
Arrivals = asyncio.Queue[Arrived | None]
_COMPLETIONS = "completions"


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """How much one process takes on."""

    max_answers: int
    """Most answers of one request."""
    max_adapters: int
    """Most adapters that it keeps loaded at the server."""
    stream_interval_s: float
    """Shortest time between two messages of a stream."""


class OpenAIBackend:
    """See `backend.Backend`."""

    def __init__(
        self,
        client: Client,
        wanted: Wanted,
        *,
        store: CheckpointStore,
        adapters: AdapterFolder,
        queue: RequestQueue,
        limits: Limits,
    ) -> None:
        self._client, self._wanted, self._store = client, wanted, store
        self._adapters, self._queue, self._limits = adapters, queue, limits
        self._found: WeightsFinder | None = None

    async def start(self) -> None:
        """Waits for the server and looks around. Errors as `discover`."""
        found = await discover(self._client, self._wanted)
        shelf = AdapterShelf(
            self._client,
            self._store,
            self._adapters,
            route=found.dialect.adapters,
            limit=self._limits.max_adapters,
        )
        await shelf.adopt(found.cards)
        self._found = WeightsFinder(
            self._wanted.base_models,
            found.models,
            dialect=found.dialect,
            checkpoints=CheckpointReader(self._store),
            shelf=shelf,
        )

    async def stop(self) -> None:
        if self._found is not None:
            await self._found.close()
        await self._client.close()

    async def sample(self, request: SampleRequest) -> Versioned[Answers]:
        async def work(weights: Weights) -> Versioned[Answers]:
            wanted = asks.asks_of(request, self._finder.dialect)
            answered = await _together([self._answer(request, ask, weights, turn) for ask in wanted])
            answers = await asyncio.to_thread(assembly.answers_of, request, answered, weights.model.text)
            return Versioned(result=answers, weights_version=weights.version)

        with self._queue.turn() as turn:
            return await self._on_weights(request.model, lambda model: self._check(model, request), work)

    async def stream(self, request: SampleRequest) -> AsyncGenerator[Sequence[Delta] | Versioned[Usage], None]:
        arrivals, writer = Arrivals(), DeltaWriter()

        async def work(weights: Weights) -> Versioned[Usage]:
            usage = await self._stream_all(request, weights, turn, arrivals)
            return Versioned(result=usage, weights_version=weights.version)

        with self._queue.turn() as turn:
            task = asyncio.create_task(self._on_weights(request.model, lambda model: self._check(model, request), work))
            task.add_done_callback(lambda _: arrivals.put_nowait(None))
            try:
                async for arrived in batched(arrivals, self._limits.stream_interval_s):
                    yield await asyncio.to_thread(writer.write, arrived)
                yield await task
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)  # until the connections are closed

    async def logprobs(self, request: LogprobsRequest) -> Versioned[Scores]:
        def check(model: ServedModel) -> None:
            # A place is left for the one token that a server has to draw.
            check_logprobs(replace(model, context=model.context - 1), request)
            asks.check_scores_supported(request, self._finder.dialect)

        async def work(weights: Weights) -> Versioned[Scores]:
            rows = range(len(request.sequences))
            scored = await _together([self._score(request, row, weights, turn) for row in rows])
            scores = await asyncio.to_thread(assembly.scores_of, request, scored)
            return Versioned(result=scores, weights_version=weights.version)

        with self._queue.turn() as turn:
            return await self._on_weights(request.model, check, work)

    def models(self) -> Sequence[ModelSummary]:
        return [
            ModelSummary(
                name=name,
                parameters=0,
                context_length=model.context,
                vocabulary_size=model.vocabulary,
                architecture=model.architecture,
                loaded=True,
            )
            for name, model in sorted(self._finder.served.items())
        ]

    def watch(self) -> AsyncGenerator[QueueStatus, None]:
        return self._queue.watch.statuses()

    @property
    def _finder(self) -> WeightsFinder:
        assert self._found is not None, "requests come after the start"
        return self._found

    def _check(self, model: ServedModel, request: SampleRequest) -> None:
        check_sample(model, request, self._limits.max_answers)
        asks.check_supported(request, self._finder.dialect)
        model.reported.check(request.params)

    async def _on_weights(
        self, ref: ModelRef, check: Callable[[ServedModel], None], work: Callable[[Weights], Awaitable[T]]
    ) -> T:
        """Does the work; once more when the server turns out to have lost an adapter, as after a restart."""
        async with self._finder.find(ref, check) as weights:
            try:
                return await work(weights)
            except ModelGone:
                if weights.adapter is None:
                    raise
                self._finder.forget(weights.adapter)
        async with self._finder.find(ref, check) as weights:
            return await work(weights)

    async def _answer(self, request: SampleRequest, ask: Ask, weights: Weights, turn: Turn) -> Answered:
        body = asks.sample_body(request, ask, weights.model, weights.remote, self._finder.dialect)
        async with turn.place():
            content = await self._client.post(_COMPLETIONS, body)
        return await asyncio.to_thread(assembly.read_answer, content, request, ask, weights.model)

    async def _score(self, request: LogprobsRequest, row: int, weights: Weights, turn: Turn) -> PromptScores:
        tokens = request.sequences[row].tolist()
        body = asks.score_body(tokens, request.top_logprobs, weights.remote, self._finder.dialect)
        async with turn.place():
            content = await self._client.post(_COMPLETIONS, body)
        return await asyncio.to_thread(assembly.read_scores, content, tokens, request.top_logprobs)

    async def _stream_all(self, request: SampleRequest, weights: Weights, turn: Turn, arrivals: Arrivals) -> Usage:
        """Puts all that arrives. An adapter that is lost when something has arrived is an error like any other."""
        told = False

        def put(row: int, piece: Piece) -> None:
            nonlocal told
            told = True
            arrivals.put_nowait(Arrived(row=row, piece=piece, text=weights.model.text))

        wanted = asks.asks_of(request, self._finder.dialect)
        try:
            counts = await _together([self._stream_one(request, ask, weights, turn, put) for ask in wanted])
        except ModelGone as error:
            if told:
                raise unavailable("lost the adapter while it answered") from error
            raise
        return assembly.usage_of(request, sum(tokens for tokens, _ in counts), sum(cached for _, cached in counts))

    async def _stream_one(
        self, request: SampleRequest, ask: Ask, weights: Weights, turn: Turn, put: Callable[[int, Piece], None]
    ) -> tuple[int, int]:
        """Tokens of the answers, and of the prompt that a cache supplied."""
        body = asks.sample_body(request, ask, weights.model, weights.remote, self._finder.dialect, stream=True)
        first = ask.prompt * request.num_samples + ask.first
        going, tokens, cached = set(range(ask.answers)), 0, 0
        async with turn.place(), aclosing(self._client.stream(_COMPLETIONS, body)) as events:
            async for data in events:
                event = parse_event(data)
                cached = max(cached, event.cached_tokens)
                for choice in event.choices:
                    if choice.index not in going:
                        raise bad_answer("an answer goes on after its end")
                    piece = piece_of(choice, request.params, weights.model, top=0)
                    if piece.reason != StopReason.NONE:
                        going.remove(choice.index)
                    tokens += len(piece.tokens)
                    put(first + choice.index, piece)
        if going:
            raise unavailable("broke off its stream")
        return tokens, cached if ask.first == 0 else 0


async def _together(works: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """The results in order. When one fails, the others are ended, and that error is the outcome."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work) for work in works]
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return [task.result() for task in tasks]

"""The `local` backend: base models in this process, adapters from checkpoint storage."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from tinsmith_server.models import BaseModel
from tinsmith_server.sampler.backend import Delta, ModelSummary, Versioned
from tinsmith_server.sampler.checkpoints import CheckpointReader, SamplerCheckpoint
from tinsmith_server.sampler.deltas import DeltaBuilder, batched
from tinsmith_server.sampler.drawing.answers import AnswerSheet, assemble, usage_of
from tinsmith_server.sampler.drawing.stops import StopMatcher
from tinsmith_server.sampler.engine.budget import EngineLimits
from tinsmith_server.sampler.engine.calibration import calibrated
from tinsmith_server.sampler.engine.engine import DecodingEngine
from tinsmith_server.sampler.engine.job import DecodeJob, Emit
from tinsmith_server.sampler.engine.model import LlamaFamilyModel, LlamaWeights
from tinsmith_server.sampler.local.alone import decode_alone
from tinsmith_server.sampler.local.causal import AdaptedWeights, CausalModel
from tinsmith_server.sampler.local.hugging_face import Overrides
from tinsmith_server.sampler.local.plan import BatchLimits, Distinct, distinct
from tinsmith_server.sampler.local.scores import score
from tinsmith_server.sampler.local.weights_cache import WeightsCache
from tinsmith_server.sampler.local.worker import TorchWorker
from tinsmith_server.sampler.ragged import Ragged
from tinsmith_server.sampler.request import (
    Answers,
    LogprobsRequest,
    ModelRef,
    SampleRequest,
    SamplingParams,
    Scores,
    Step,
    Usage,
)
from tinsmith_server.sampler.text import Text
from tinsmith_server.sampler.validation import check_logprobs, check_sample
from tinsmith_server.serving import QueueStatus, QueueWatch
from tinsmith_server.serving.errors import FailedPrecondition, NotFound


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedModel:
    """A base model and its tokenizer."""

    model: CausalModel
    text: Text


class Loader(Protocol):
    """Brings base models into memory."""

    def __call__(self, name: str) -> LoadedModel:
        """NotFound with reason BASE_MODEL_NOT_FOUND when there is none of this name."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class _Ready:
    """What a request needs to run."""

    loaded: LoadedModel
    weights: AdaptedWeights
    version: str


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalLimits:
    """How much one process takes on."""

    batch: BatchLimits
    """Of a request that is scored, or decoded alone."""
    engine: EngineLimits
    max_answers: int
    """Most answers of one request."""
    stream_interval_s: float
    """Shortest time between two messages of a stream."""


class LocalBackend:
    """See `backend.Backend`."""

    def __init__(
        self,
        base_models: Mapping[str, BaseModel],
        *,
        load: Loader,
        checkpoints: CheckpointReader,
        worker: TorchWorker,
        cache: WeightsCache,
        limits: LocalLimits,
    ) -> None:
        self._base_models, self._load, self._checkpoints = base_models, load, checkpoints
        self._worker, self._cache, self._limits = worker, cache, limits
        self._models: Mapping[str, LoadedModel] = {}
        self._engines: dict[str, DecodingEngine] = {}
        self._loading: dict[str, asyncio.Task[AdaptedWeights]] = {}
        self._watch = QueueWatch(worker.status)

    async def start(self) -> None:
        """Loads the base models one by one and lets each answer once, so that the first caller need not wait.

        NotFound BASE_MODEL_NOT_FOUND, FailedPrecondition BASE_MODEL_UNUSABLE.
        """
        loop = asyncio.get_running_loop()
        self._worker.on_change = lambda: _call_soon(loop, self._watch.changed)
        self._worker.start()
        for name in self._base_models:
            try:
                loaded = await asyncio.to_thread(self._load, name)
                await self._open_engine(loaded)
                warm = _Ready(loaded=loaded, weights=loaded.model.base(), version=name)
                await self._answers(warm, _warm_up(name))
            except (AttributeError, TypeError, ValueError, RuntimeError) as error:
                raise FailedPrecondition(
                    f"base model {name!r} can't be decoded here, it may be of a kind without a KV cache: {error}",
                    reason="BASE_MODEL_UNUSABLE",
                    metadata={"base_model": name},
                ) from error
            self._models = {**self._models, name: loaded}

    async def stop(self) -> None:
        await asyncio.to_thread(self._worker.stop)

    async def sample(self, request: SampleRequest) -> Versioned[Answers]:
        ready = await self._prepare(request.model, lambda model: check_sample(model, request, self._limits.max_answers))
        return Versioned(result=await self._answers(ready, request), weights_version=ready.version)

    async def stream(self, request: SampleRequest) -> AsyncGenerator[Sequence[Delta] | Versioned[Usage], None]:
        ready = await self._prepare(request.model, lambda model: check_sample(model, request, self._limits.max_answers))
        loop, steps = asyncio.get_running_loop(), asyncio.Queue[Step | None]()
        prompts = distinct(request.prompts)

        def emit(step: Step) -> None:
            _call_soon(loop, steps.put_nowait, step)

        task = asyncio.create_task(self._decode(ready, request, prompts, emit))
        task.add_done_callback(lambda _: steps.put_nowait(None))
        deltas = DeltaBuilder(ready.loaded.text)
        try:
            async for found in batched(steps, self._limits.stream_interval_s):
                yield await asyncio.to_thread(deltas.build, found)
            _, usage = await task
            yield Versioned(result=usage, weights_version=ready.version)
        finally:
            task.cancel()

    async def logprobs(self, request: LogprobsRequest) -> Versioned[Scores]:
        ready = await self._prepare(request.model, lambda model: check_logprobs(model, request))
        scores = await self._scores(ready, request.sequences, request.targets, request.top_logprobs)
        return Versioned(result=scores, weights_version=ready.version)

    def models(self) -> Sequence[ModelSummary]:
        return [
            ModelSummary(
                name=name,
                parameters=loaded.model.parameters,
                context_length=loaded.model.context,
                vocabulary_size=loaded.model.vocabulary,
                architecture=loaded.model.architecture,
                loaded=True,
            )
            for name, loaded in sorted(self._models.items())
        ]

    def watch(self) -> AsyncGenerator[QueueStatus, None]:
        return self._watch.statuses()

    async def _open_engine(self, loaded: LoadedModel) -> None:
        """Models of our own forward pass are decoded by an engine, whose ground is tested first."""
        model = loaded.model
        if isinstance(model, LlamaFamilyModel):
            limits = await self._worker.call(lambda: calibrated(model, self._limits.engine))
            self._engines[model.name] = DecodingEngine(model, limits)
            self._worker.add(self._engines[model.name])

    async def _answers(self, ready: _Ready, request: SampleRequest) -> Answers:
        prompts = distinct(request.prompts)
        scores = None
        if request.prompt_logprobs or request.top_prompt_logprobs:
            rows = Ragged.of(prompts.rows, np.int32)
            scores = await self._scores(ready, rows, None, request.top_prompt_logprobs)
        sheet, usage = await self._decode(ready, request, prompts, None)
        text = ready.loaded.text
        if request.return_text:
            return await asyncio.to_thread(assemble, request, sheet, prompts, scores, text, usage)
        return assemble(request, sheet, prompts, scores, text, usage)

    async def _decode(
        self, ready: _Ready, request: SampleRequest, prompts: Distinct, emit: Emit | None
    ) -> tuple[AnswerSheet, Usage]:
        """All tokens of a request, and what they cost."""
        model, weights, text = ready.loaded.model, ready.weights, ready.loaded.text
        if isinstance(weights, LlamaWeights):
            stops = StopMatcher(request.params, model.eos_ids, model.vocabulary, text.decode)
            job = DecodeJob(
                request,
                prompts,
                adapter=weights.adapter,
                version=ready.version,
                stops=stops,
                context=model.context,
                emit=emit,
            )
            engine = self._engines[model.name]
            engine.check(job)
            sheet = await self._worker.submit(engine, job)
            return sheet, usage_of(request, prompts, sheet.token_count, job.cached_tokens)
        assert isinstance(weights, Overrides)
        sheet = await self._worker.run(decode_alone(weights, request, prompts, self._limits.batch, text, emit))
        return sheet, usage_of(request, prompts, sheet.token_count, 0)

    async def _scores(self, ready: _Ready, sequences: Ragged, targets: Ragged | None, top: int) -> Scores:
        job = score(ready.loaded.model, ready.weights, sequences, targets, top, self._limits.batch)
        return await self._worker.run(job)

    async def _prepare(self, ref: ModelRef, check: Callable[[CausalModel], None]) -> _Ready:
        """Finds the weights; the request is checked before an adapter is loaded for it."""
        if ref.checkpoint_uri is not None:
            try:
                return await self._prepare_adapter(ref.checkpoint_uri, check)
            except NotFound:  # replaced after its manifest was read? Then the new one is there now.
                return await self._prepare_adapter(ref.checkpoint_uri, check)
        loaded = self._base_model(ref.base_model or "")
        check(loaded.model)
        return _Ready(loaded=loaded, weights=loaded.model.base(), version=loaded.model.name)

    async def _prepare_adapter(self, uri: str, check: Callable[[CausalModel], None]) -> _Ready:
        checkpoint = await self._checkpoints.open(uri)
        loaded = self._base_model(self._name_here(checkpoint.base_model))
        check(loaded.model)
        version = f"{loaded.model.name}+{checkpoint.checksum}"
        return _Ready(loaded=loaded, weights=await self._weights(version, loaded.model, checkpoint), version=version)

    def _name_here(self, base_model: str) -> str:
        """The name under which this process serves what a checkpoint calls `base_model`: a trainer may name a model
        by where it is, a sampler by an alias."""
        if base_model in self._base_models:
            return base_model
        names = [model.name for model in self._base_models.values() if model.location == base_model]
        return names[0] if names else base_model

    def _base_model(self, name: str) -> LoadedModel:
        if name not in self._models:
            served = ", ".join(sorted(self._models))
            raise NotFound(
                f"base model {name!r} is not served here; this sampler serves {served} (setting base_models)",
                reason="BASE_MODEL_NOT_FOUND",
                metadata={"base_model": name, "served": served},
            )
        return self._models[name]

    async def _weights(self, version: str, model: CausalModel, checkpoint: SamplerCheckpoint) -> AdaptedWeights:
        """From the cache, or loaded once however many requests ask for it at the same time."""
        cached = self._cache.get(version)
        if cached is not None:
            return cached
        if version not in self._loading:
            self._loading[version] = asyncio.create_task(self._load_adapter(version, model, checkpoint))
        return await asyncio.shield(self._loading[version])

    async def _load_adapter(self, version: str, model: CausalModel, checkpoint: SamplerCheckpoint) -> AdaptedWeights:
        try:
            adapter = await self._checkpoints.read(checkpoint)
            weights = await self._worker.call(lambda: model.adapted(adapter))
            self._cache.put(version, weights)
            return weights
        finally:
            del self._loading[version]


def _warm_up(name: str) -> SampleRequest:
    """A small request that runs all that real ones run."""
    return SampleRequest(
        model=ModelRef(base_model=name),
        prompts=Ragged.of([np.zeros(2, np.int32)], np.int32),
        num_samples=2,
        params=SamplingParams(max_tokens=3, ignore_eos=True),
        seeds=np.zeros(1, np.int64),
        prompt_logprobs=True,
    )


def _call_soon(loop: asyncio.AbstractEventLoop, action: Callable[..., None], *args: object) -> None:
    """From the torch thread to the loop, which may have been closed at shutdown."""
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(action, *args)

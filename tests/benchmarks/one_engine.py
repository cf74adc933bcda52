"""The sampler's engine in this process: its service's work on a request without messages, threads or event loop."""

from collections.abc import Sequence
from hashlib import sha256

import torch
from transformers import PreTrainedModel

from tinsmith_server.sampler.adapter import read_adapter
from tinsmith_server.sampler.drawing.answers import assemble, usage_of
from tinsmith_server.sampler.drawing.stops import StopMatcher
from tinsmith_server.sampler.engine.budget import EngineLimits
from tinsmith_server.sampler.engine.calibration import calibrated
from tinsmith_server.sampler.engine.engine import DecodingEngine
from tinsmith_server.sampler.engine.job import DecodeJob
from tinsmith_server.sampler.engine.model import LlamaFamilyModel, LlamaWeights
from tinsmith_server.sampler.local.plan import distinct
from tinsmith_server.sampler.local.waiting_line import WaitingLine
from tinsmith_server.sampler.request import Answers, SampleRequest
from tinsmith_server.sampler.settings import SamplerSettings


class OneEngine:
    """One base model, with the service's default limits."""

    def __init__(self, base: PreTrainedModel, *, name: str) -> None:
        settings = SamplerSettings.model_validate({})
        limits = EngineLimits(
            jobs=settings.max_running,
            rows=settings.max_batch_rows,
            kv_bytes=settings.kv_bytes,
            cache_bytes=settings.prefix_cache_bytes,
            prefill_tokens=settings.prefill_tokens,
            stream_interval_s=settings.stream_interval_ms / 1000,
        )
        self._line = WaitingLine()
        with torch.inference_mode():
            self._model = LlamaFamilyModel(base, name=name, prefill_tokens=settings.prefill_tokens)
            self._engine = DecodingEngine(self._model, calibrated(self._model, limits))
        self._weights, self._version = self._model.base(), name

    def take(self, config: bytes, weights: bytes) -> None:
        """From now on answers come from this adapter, given as PEFT's files."""
        with torch.inference_mode():
            adapted = self._model.adapted(read_adapter(config, weights))
        assert isinstance(adapted, LlamaWeights)
        self._weights, self._version = adapted, sha256(weights).hexdigest()

    @torch.inference_mode()
    def sample(self, request: SampleRequest) -> Answers:
        """All answers to a request that asks for no text."""
        prompts = distinct(request.prompts)
        job = DecodeJob(
            request,
            prompts,
            adapter=self._weights.adapter,
            version=self._version,
            stops=StopMatcher(request.params, self._model.eos_ids, self._model.vocabulary, _NoText().decode),
            context=self._model.context,
        )
        self._line.join(self._engine, job)
        while not job.future.done():
            self._engine.admit(self._line)
            self._engine.turn()
        sheet = job.future.result()
        usage = usage_of(request, prompts, sheet.token_count, job.cached_tokens)
        return assemble(request, sheet, prompts, None, _NoText(), usage)


class _NoText:
    """See `text.Text`; the requests here have no stop strings and ask for no text."""

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        return ""

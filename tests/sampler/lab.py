"""Small random models of several families, PEFT adapters for them, and a way to run the sampler's jobs to their end."""

import copy
import warnings
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import peft
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from tinsmith_server.sampler.drawing.answers import assemble, usage_of
from tinsmith_server.sampler.drawing.stops import StopMatcher
from tinsmith_server.sampler.engine.budget import EngineLimits
from tinsmith_server.sampler.engine.engine import DecodingEngine
from tinsmith_server.sampler.engine.job import DecodeJob
from tinsmith_server.sampler.engine.model import LlamaFamilyModel, LlamaWeights
from tinsmith_server.sampler.local.alone import decode_alone
from tinsmith_server.sampler.local.causal import CausalModel
from tinsmith_server.sampler.local.plan import BatchLimits, distinct
from tinsmith_server.sampler.local.scores import score
from tinsmith_server.sampler.local.waiting_line import WaitingLine
from tinsmith_server.sampler.ragged import Ragged
from tinsmith_server.sampler.request import Answers, ModelRef, SampleRequest, SamplingParams

T = TypeVar("T")
VOCABULARY = 160
BATCH = BatchLimits(rows=64, prompt_tokens=2048)
LIMITS = EngineLimits(
    jobs=100, rows=64, kv_bytes=1 << 26, cache_bytes=1 << 22, prefill_tokens=64, stream_interval_s=0.0
)
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head"]
_SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
_LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def _build(family: str) -> PreTrainedModel:
    match family:
        case "qwen3":
            return Qwen3ForCausalLM(Qwen3Config(**_SIZES, head_dim=16, tie_word_embeddings=True))
        case "qwen2":
            return Qwen2ForCausalLM(Qwen2Config(**_SIZES))
        case "llama":
            biased = {"attention_bias": True, "mlp_bias": True}
            return LlamaForCausalLM(LlamaConfig(**_SIZES, **biased, rope_parameters=_LLAMA3_ROPE))
        case "mistral":
            return MistralForCausalLM(MistralConfig(**_SIZES, sliding_window=8))
        case "gpt2":
            sizes = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}
            return GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=None, eos_token_id=1))
    raise ValueError(family)


def random_model(family: str) -> PreTrainedModel:
    """A fresh model, always with the same random weights, wide enough apart for its tokens to differ."""
    torch.manual_seed(7)
    model = _build(family).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.normal_(0, 0.3)
    return model


class AsciiText:
    """A tokenizer with one printable character a token."""

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        return "".join(chr(33 + token) for token in ids)


@dataclass(frozen=True, kw_only=True)
class Lab:
    """A model of `transformers` and the sampler's own of the same weights."""

    oracle: PreTrainedModel
    model: CausalModel

    def sample(self, prompts: Sequence[Sequence[int]], *, weights: Any = None, **options: Any) -> Answers:
        """Samples `prompts`; options are those of SampleRequest and SamplingParams."""
        return self.run(request(prompts, **options), weights=weights)

    def run(self, wanted: SampleRequest, *, weights: Any = None, limits: EngineLimits = LIMITS) -> Answers:
        """Runs a request to its end, with an engine of its own where the model has one."""
        weights, prompts, text = weights or self.model.base(), distinct(wanted.prompts), AsciiText()
        scores = None
        if wanted.prompt_logprobs or wanted.top_prompt_logprobs:
            rows = Ragged.of(prompts.rows, np.int32)
            scores = finish(score(self.model, weights, rows, None, wanted.top_prompt_logprobs, BATCH))
        cached = 0
        if isinstance(weights, LlamaWeights):
            [job] = decode_together(self.model, [(weights, wanted)], limits)
            sheet, cached = job.future.result(), job.cached_tokens
        else:
            sheet = finish(decode_alone(weights, wanted, prompts, BATCH, text, None))
        return assemble(wanted, sheet, prompts, scores, text, usage_of(wanted, prompts, sheet.token_count, cached))


def job_of(weights: LlamaWeights, wanted: SampleRequest, *, version: str = "", **options: Any) -> DecodeJob:
    """A request as an engine takes it."""
    model, prompts = weights.model, distinct(wanted.prompts)
    stops = StopMatcher(wanted.params, model.eos_ids, model.vocabulary, AsciiText().decode)
    own = {"adapter": weights.adapter, "version": version or str(id(weights.adapter)), "context": model.context}
    return DecodeJob(wanted, prompts, stops=stops, **own, **options)


def decode_together(
    model: LlamaFamilyModel, wanted: Sequence[tuple[LlamaWeights, SampleRequest]], limits: EngineLimits
) -> list[DecodeJob]:
    """Requests that arrive at the same time at an engine of their own, decoded to their ends."""
    engine, line = DecodingEngine(model, limits), WaitingLine()
    jobs = [job_of(*each) for each in wanted]
    for job in jobs:
        line.join(engine, job)
    run_engine(engine, line)
    return jobs


def run_engine(engine: DecodingEngine, line: WaitingLine, turns: int | None = None) -> None:
    """Turns until nothing is left to do, or so many."""
    with torch.inference_mode():
        while turns is None or turns > 0:
            engine.admit(line)
            if not engine.running:
                return
            engine.turn()
            turns = None if turns is None else turns - 1


def request(prompts: Sequence[Sequence[int]], *, seed: int = 0, num_samples: int = 1, **options: Any) -> SampleRequest:
    """A request of `prompts` with one seed for all."""
    own = ("prompt_logprobs", "top_prompt_logprobs", "top_logprobs", "return_text")
    extra = {name: options.pop(name) for name in own if name in options}
    return SampleRequest(
        model=ModelRef(base_model="random"),
        prompts=ragged_rows(prompts),
        num_samples=num_samples,
        params=SamplingParams(**{"max_tokens": 8, **options}),
        seeds=np.full(len(prompts), seed, np.int64),
        **extra,
    )


def ragged_rows(rows: Sequence[Sequence[int]]) -> Ragged:
    """Rows of token ids."""
    return Ragged.of([np.array(row, np.int32) for row in rows], np.int32)


def finish(job: Generator[None, None, T]) -> T:
    """Runs a job to its end."""
    with torch.inference_mode():
        while True:
            try:
                next(job)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]


def own_model(oracle: PreTrainedModel) -> LlamaFamilyModel:
    """The sampler's forward pass on a copy of `oracle`, so that nothing it does can reach the oracle."""
    return LlamaFamilyModel(copy.deepcopy(oracle), name="random", prefill_tokens=64)


def prompts_of(lengths: Sequence[int], seed: int = 0) -> list[list[int]]:
    """Random prompts of these lengths without the end-of-sequence token."""
    rng = np.random.default_rng(seed)
    return [rng.integers(2, VOCABULARY, length).tolist() for length in lengths]


def with_peft_adapter(oracle: PreTrainedModel, directory: Path, *, seed: int, **config: Any) -> Any:
    """`oracle` with a random adapter of PEFT's, whose files are written to `directory`."""
    options = {"r": 4, "lora_alpha": 8, "target_modules": TARGETS, **config}
    with warnings.catch_warnings():  # PEFT warns of adapted heads, which is what is wanted here
        warnings.simplefilter("ignore")
        adapted = peft.get_peft_model(copy.deepcopy(oracle), peft.LoraConfig(**options)).eval()
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(0, 0.2, generator=generator)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted.save_pretrained(directory)
    return adapted

"""Sampling: ours against `transformers` generate, both in this process, on one thread."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from tests.benchmarks import model as embedded
from tests.benchmarks.report import Row, paired
from tinsmith_server.sampler.engine import sample
from tinsmith_server.sampler.llama_family import LlamaFamilyModel
from tinsmith_server.sampler.plan import BatchLimits
from tinsmith_server.sampler.ragged import Ragged
from tinsmith_server.sampler.request import ModelRef, SampleRequest, SamplingParams

ROUNDS = 5


def rows() -> list[Row]:
    """New tokens a second: the demo's request, and a longer one."""
    return [
        _row("50 prompts x 8 answers x 5 tokens", prompts=50, answers=8, tokens=5),
        _row("16 prompts x 8 answers x 64 tokens", prompts=16, answers=8, tokens=64),
    ]


def _row(figure: str, *, prompts: int, answers: int, tokens: int) -> Row:
    ids = embedded.prompts(prompts)
    ours = LlamaFamilyModel(embedded.load(), name=embedded.NAME, merge_limit_bytes=0, prefill_tokens=4096)
    theirs = embedded.load()
    new_tokens = prompts * answers * tokens
    return paired(
        figure,
        "tokens/s",
        lambda: new_tokens / _seconds(lambda: _sample(ours, ids, answers, tokens)),
        lambda: new_tokens / _seconds(lambda: _generate(theirs, ids, answers, tokens)),
        rounds=ROUNDS,
        target=1.0,
        lower_is_better=False,
    )


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


@torch.inference_mode()
def _sample(model: LlamaFamilyModel, prompts: list[list[int]], answers: int, tokens: int) -> None:
    request = SampleRequest(
        model=ModelRef(base_model=model.name),
        prompts=Ragged.of([np.array(prompt, np.int32) for prompt in prompts], np.int32),
        num_samples=answers,
        params=SamplingParams(max_tokens=tokens, ignore_eos=True),
        seeds=np.arange(len(prompts)),
    )
    limits = BatchLimits(rows=512, prompt_tokens=65536)
    for _ in sample(model, model.base(), request, limits, _NoText(), lambda step: None):
        pass


class _NoText:
    """The request has no stop strings and asks for no text."""

    def decode(self, ids: object, *, skip_special_tokens: bool = False) -> str:
        return ""


@torch.inference_mode()
def _generate(model: Any, prompts: list[list[int]], answers: int, tokens: int) -> None:
    longest = max(map(len, prompts))
    padded = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    model.generate(
        padded,
        attention_mask=mask,
        do_sample=True,
        num_return_sequences=answers,
        min_new_tokens=tokens,
        max_new_tokens=tokens,
        top_k=0,
        output_logits=True,
        return_dict_in_generate=True,
        pad_token_id=0,
    )

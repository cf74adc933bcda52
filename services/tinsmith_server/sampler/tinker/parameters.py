"""Sampling parameters as the service takes them.

The service stops at the end-of-sequence token only when no other stop is given, so here it is added to those that are.
"""

import tinker

from tinsmith_server.sampler.request import SamplingParams
from tinsmith_server.sampler.tinker.tokenizer import Tokenizer
from tinsmith_server.serving.errors import FailedPrecondition

Stop = list[str] | list[int] | None
_SEEDS = 1 << 64
"""The service's seeds are unsigned."""


def check_supported(params: SamplingParams) -> None:
    """FailedPrecondition with reason BACKEND_UNSUPPORTED for what the service lacks; the metadata name it."""
    given = {
        "params.min_p": params.min_p,
        "params.frequency_penalty": params.frequency_penalty,
        "params.presence_penalty": params.presence_penalty,
        "params.logit_bias": params.logit_bias,
        "params.allowed_token_ids": params.allowed_token_ids,
        "params.stop, strings and token ids together": params.stop_strings and params.stop_token_ids,
    }
    for parameter, value in given.items():
        if value:
            raise FailedPrecondition(
                f"{parameter}: the Tinker service has no such parameter; leave it out, or use another backend",
                reason="BACKEND_UNSUPPORTED",
                metadata={"parameter": parameter},
            )


def needs_tokenizer(params: SamplingParams) -> bool:
    """Whether the end-of-sequence token must be known."""
    return bool(params.stop_strings or params.stop_token_ids) and not params.ignore_eos


def service_params(params: SamplingParams, seed: int, tokenizer: Tokenizer | None) -> tinker.SamplingParams:
    """The parameters, which are supported; `tokenizer` where it is needed."""
    return tinker.SamplingParams(
        max_tokens=params.max_tokens,
        seed=seed % _SEEDS,
        stop=_stop(params, tokenizer),
        temperature=params.temperature,
        top_k=params.top_k or -1,
        top_p=params.top_p,
    )


def _stop(params: SamplingParams, tokenizer: Tokenizer | None) -> Stop:
    if not params.stop_strings and not params.stop_token_ids:
        return [] if params.ignore_eos else None
    if tokenizer is None:
        return [*params.stop_strings] or [*params.stop_token_ids]
    if params.stop_strings:
        return [*params.stop_strings, tokenizer.eos]
    return [*params.stop_token_ids, tokenizer.eos_id]

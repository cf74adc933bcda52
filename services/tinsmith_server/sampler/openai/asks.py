"""Our requests as the server's. With `answers.py` the only file that knows both."""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from tinsmith_server.sampler.openai.dialect import Dialect
from tinsmith_server.sampler.openai.failures import unsupported
from tinsmith_server.sampler.openai.served_model import ServedModel
from tinsmith_server.sampler.request import LogprobsRequest, SampleRequest, SamplingParams

_MOST_BIAS = 100.0
"""Servers cut a logit's bias to this, as OpenAI does."""
_SEED_BITS = 31
"""Every server takes a seed of so many bits."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ask:
    """One HTTP request: some answers to one prompt."""

    prompt: int
    first: int
    """The first of its answers among those to the prompt."""
    answers: int


def asks_of(request: SampleRequest, dialect: Dialect) -> list[Ask]:
    """The HTTP requests of a request: one a prompt where the server draws many answers, else one an answer. vLLM draws
    but one at temperature 0."""
    size = request.num_samples if dialect.draws_many and request.params.temperature > 0 else 1
    return [
        Ask(prompt=prompt, first=first, answers=size)
        for prompt in range(len(request.prompts))
        for first in range(0, request.num_samples, size)
    ]


def check_supported(request: SampleRequest, dialect: Dialect) -> None:
    """FailedPrecondition with reason BACKEND_UNSUPPORTED for what the server lacks."""
    params = request.params
    lacking = {
        "params.top_k": params.top_k and "top_k" not in dialect.fields,
        "params.min_p": params.min_p and "min_p" not in dialect.fields,
        "params.stop.token_ids": params.stop_token_ids and "stop_token_ids" not in dialect.fields,
        "params.ignore_eos": params.ignore_eos and "ignore_eos" not in dialect.fields,
        "params.allowed_token_ids": params.allowed_token_ids and "allowed_token_ids" not in dialect.fields,
        "params.logit_bias": any(abs(bias) > _MOST_BIAS for bias in params.logit_bias.values()),
        "top_logprobs": request.top_logprobs and not dialect.top_ids,
        "top_prompt_logprobs": request.top_prompt_logprobs and not dialect.top_ids,
    }
    _refuse(lacking)


def check_scores_supported(request: LogprobsRequest, dialect: Dialect) -> None:
    """FailedPrecondition with reason BACKEND_UNSUPPORTED for what the server lacks."""
    _refuse({"targets": request.targets is not None, "top_logprobs": request.top_logprobs and not dialect.top_ids})


def sample_body(
    request: SampleRequest, ask: Ask, model: ServedModel, weights: str, dialect: Dialect, *, stream: bool = False
) -> Mapping[str, Any]:
    """The body of /completions; `weights` is the server's name for base model or adapter."""
    prompt = request.prompts[ask.prompt].tolist()
    body = {
        **dialect.always,
        "model": weights,
        "prompt": prompt,
        "n": ask.answers,
        "seed": _seed(int(request.seeds[ask.prompt]), ask.first),
        "max_tokens": min(request.params.max_tokens, model.context - len(prompt)),
        "logprobs": request.top_logprobs,
        **_params(request.params, dialect),
    }
    if stream:
        return {**body, "stream": True, "stream_options": {"include_usage": True}}
    # Answers to the same prompt share its scores: they are asked for once.
    if ask.first == 0 and (request.prompt_logprobs or request.top_prompt_logprobs):
        return {**body, **_prompt_scores(request.top_prompt_logprobs, request.top_logprobs, dialect)}
    return body


def score_body(tokens: list[int], top: int, weights: str, dialect: Dialect) -> Mapping[str, Any]:
    """The body of /completions that asks for the scores of a prompt alone; one token more has to be drawn."""
    return {
        **dialect.always,
        "model": weights,
        "prompt": tokens,
        "n": 1,
        "max_tokens": 1,
        "temperature": 0,
        "logprobs": 0,
        **_prompt_scores(top, 0, dialect),
    }


def _refuse(lacking: Mapping[str, object]) -> None:
    for parameter, lacks in lacking.items():
        if lacks:
            raise unsupported(parameter, "leave it out, or use another backend")


def _prompt_scores(top_prompt: int, top: int, dialect: Dialect) -> Mapping[str, Any]:
    if dialect.prompt_logprobs:
        return {"prompt_logprobs": top_prompt}
    return {"echo": True, "logprobs": max(top_prompt, top)}


def _params(params: SamplingParams, dialect: Dialect) -> Mapping[str, Any]:
    """All that a server might otherwise take from the model's generation configuration is said, also where it is
    nothing. The likeliest token is the same through any filter, so at temperature 0 none is sent: filters would only
    change the logprobs."""
    greedy = params.temperature == 0
    extended = {
        "top_k": dialect.every_top_k if greedy else params.top_k or dialect.every_top_k,
        "min_p": 0.0 if greedy else params.min_p,
        "stop_token_ids": list(params.stop_token_ids),
        "ignore_eos": params.ignore_eos,
        "allowed_token_ids": list(params.allowed_token_ids) or None,
    }
    return {
        "temperature": params.temperature,
        "top_p": 1.0 if greedy else params.top_p,
        "stop": list(params.stop_strings) or None,
        "frequency_penalty": params.frequency_penalty,
        "presence_penalty": params.presence_penalty,
        "logit_bias": {str(token): bias for token, bias in params.logit_bias.items()} or None,
        **{name: value for name, value in extended.items() if name in dialect.fields},
    }


def _seed(seed: int, answer: int) -> int:
    """The server's seed of an answer. Hashed, because a server that draws many answers uses the seeds that follow, and
    a neighbouring seed of ours must not draw the same."""
    digest = sha256(f"{seed}/{answer}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> (64 - _SEED_BITS)

"""What a caller may ask of the sampler and what it gets back. No protobuf, no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from tinsmith_server.sampler.ragged import Ragged


class StopReason(IntEnum):
    """Why an answer ended; NONE while it goes on."""

    NONE = 0
    STOP = 1
    EOS = 2
    LENGTH = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingParams:
    """How tokens are drawn. Applied in this order: penalties and bias, temperature, top-k, top-p, min-p."""

    max_tokens: int
    """Most tokens of an answer; the model's context may end it earlier."""
    temperature: float = 1.0
    """Divides the logits; 0 takes the likeliest token."""
    top_p: float = 1.0
    """Keep the likeliest tokens up to and including the one with which their probabilities reach this sum."""
    top_k: int = 0
    """Keep this many likeliest tokens; 0 keeps all."""
    min_p: float = 0.0
    """Keep tokens at least this likely relative to the likeliest."""
    stop_strings: tuple[str, ...] = ()
    """Text that ends an answer; its last token belongs to the answer."""
    stop_token_ids: tuple[int, ...] = ()
    """Tokens that end an answer and belong to it."""
    ignore_eos: bool = False
    """Go on past the model's end-of-sequence token."""
    frequency_penalty: float = 0.0
    """Subtracted from a token's logit for each time it was generated."""
    presence_penalty: float = 0.0
    """Subtracted once from the logit of a generated token."""
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    """Added to the logit of each token id."""
    allowed_token_ids: tuple[int, ...] = ()
    """When given, only these tokens may be drawn."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelRef:
    """Weights by name: exactly one of the two is set."""

    base_model: str | None = None
    checkpoint_uri: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleRequest:
    """`num_samples` answers to each prompt. Answer i of prompt p is row p * num_samples + i."""

    model: ModelRef
    prompts: Ragged
    """Token ids, int32."""
    num_samples: int
    params: SamplingParams
    seeds: NDArray[np.int64]
    """int64 [prompts]. Answer i of a prompt draws from (seed, i)."""
    prompt_logprobs: bool = False
    top_prompt_logprobs: int = 0
    top_logprobs: int = 0
    return_text: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class LogprobsRequest:
    """Logprobs of given sequences, or of K given targets at each of their positions."""

    model: ModelRef
    sequences: Ragged
    """Token ids, int32."""
    targets: Ragged | None = None
    """int32, rows as `sequences`, inner shape [K]: judged by the distribution after tokens 0..t."""
    top_logprobs: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class TopLogprobs:
    """The k likeliest tokens at each position, likeliest first; missing entries are token 0 at -infinity."""

    token_ids: Ragged
    """int32, inner shape [k]."""
    logprobs: Ragged
    """float32, inner shape [k]."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """Tokens that were added: those of one decoding step, or of several."""

    rows: NDArray[np.int64]
    """Each token's answer, int64 [tokens]; tokens of one answer are in order."""
    tokens: NDArray[np.int32]
    logprobs: NDArray[np.float32]
    stop_reasons: NDArray[np.int8]
    """StopReason at an answer's last token; NONE where the answer goes on."""
    top_ids: NDArray[np.int32] | None = None
    """int32 [tokens, k]."""
    top_logprobs: NDArray[np.float32] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """Tokens counted."""

    prompt_tokens: int
    completion_tokens: int
    cached_prompt_tokens: int
    """Tokens of prompts that were not read again: an equal prompt of the same request, or the cache, had them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answers:
    """All answers of a SampleRequest."""

    tokens: Ragged
    """int32; a matched stop token is included."""
    logprobs: Ragged
    """float32, of the distribution each token was drawn from (see `choice.py`)."""
    stop_reasons: NDArray[np.int8]
    texts: tuple[str, ...] | None
    prompt_logprobs: Ragged | None
    """float32, one row a prompt, the first of each NaN."""
    top_prompt_logprobs: TopLogprobs | None
    top_logprobs: TopLogprobs | None
    usage: Usage


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """Answer to a LogprobsRequest."""

    logprobs: Ragged
    """float32, rows as `sequences`. Without targets the first of each row is NaN; with targets inner shape [K]."""
    top_logprobs: TopLogprobs | None

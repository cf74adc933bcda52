"""Refuses what no model should be asked, naming the prompt and the number at fault."""

from math import isfinite
from typing import Protocol

import numpy as np

from tinsmith_server.sampler.ragged import Ragged
from tinsmith_server.sampler.request import LogprobsRequest, SampleRequest, SamplingParams
from tinsmith_server.serving.errors import InvalidArgument

_MOST_TOP_ENTRIES = 1 << 25
"""Most entries of likeliest tokens in one answer; each takes 8 bytes, and several copies of them while it is made."""


class Bounds(Protocol):
    """What a request to a model is checked against, wherever the model is."""

    @property
    def name(self) -> str:
        """As requests name it."""
        ...

    @property
    def context(self) -> int:
        """Longest sequence in tokens."""
        ...

    @property
    def vocabulary(self) -> int:
        """Token ids are below it."""
        ...


def check_sample(model: Bounds, request: SampleRequest, max_answers: int) -> None:
    """Raises InvalidArgument for a request that can't be sampled."""
    # One place must be left for an answer.
    _check_rows(model, "prompts", request.prompts, model.context - 1)
    answers = len(request.prompts) * request.num_samples
    if answers > max_answers:
        raise _invalid(
            "TOO_MANY_ANSWERS",
            "num_samples",
            f"{len(request.prompts)} prompts with {request.num_samples} answers each are {answers} answers, "
            f"more than {max_answers}; send fewer prompts in a call",
            answers=answers,
        )
    if len(request.seeds) != len(request.prompts):
        raise _invalid(
            "INVALID_REQUEST",
            "seeds",
            f"{len(request.seeds)} seeds for {len(request.prompts)} prompts; send one a prompt, one for all or none",
        )
    _check_params(model, request.params)
    longest = min(request.params.max_tokens, model.context)
    _check_top("top_logprobs", request.top_logprobs, answers * longest)
    _check_top("top_prompt_logprobs", request.top_prompt_logprobs, len(request.prompts.values))


def check_logprobs(model: Bounds, request: LogprobsRequest) -> None:
    """Raises InvalidArgument for sequences or targets that can't be judged."""
    _check_rows(model, "sequences", request.sequences, model.context)
    _check_top("top_logprobs", request.top_logprobs, len(request.sequences.values))
    if request.targets is None:
        return
    if not np.array_equal(request.targets.offsets, request.sequences.offsets):
        raise _invalid("BAD_TENSOR", "targets", "the rows of targets must be as long as those of sequences")
    _check_vocabulary(model, "targets", request.targets)


def _check_params(model: Bounds, params: SamplingParams) -> None:
    """What the rules of the contract leave open."""
    if not all(map(isfinite, params.logit_bias.values())):
        raise _invalid(
            "INVALID_REQUEST",
            "params.logit_bias",
            "a bias is not finite; to forbid a token, list the others in allowed_token_ids",
        )
    if "" in params.stop_strings:
        raise _invalid("INVALID_REQUEST", "params.stop.strings", "a stop string is empty; leave it out")
    named = {
        "params.stop.token_ids": params.stop_token_ids,
        "params.allowed_token_ids": params.allowed_token_ids,
        "params.logit_bias": params.logit_bias,
    }
    for field, tokens in named.items():
        for token in tokens:
            if not 0 <= token < model.vocabulary:
                raise _out_of_vocabulary(model, field, token)


def _check_top(field: str, top: int, positions: int) -> None:
    if top * positions > _MOST_TOP_ENTRIES:
        raise _invalid(
            "TOO_MANY_LOGPROBS",
            field,
            f"the {top} likeliest tokens at up to {positions} positions are more than {_MOST_TOP_ENTRIES} entries; "
            "ask for fewer, or in several calls",
            positions=positions,
            limit=_MOST_TOP_ENTRIES,
        )


def _check_rows(model: Bounds, field: str, rows: Ragged, longest: int) -> None:
    if not len(rows):
        raise _invalid("EMPTY_PROMPT", field, f"{field} has no rows; send at least one")
    lengths = np.diff(rows.offsets)
    if not lengths.all():
        row = int(lengths.argmin())
        raise _invalid(
            "EMPTY_PROMPT", f"{field}[{row}]", "has no tokens; begin it with one, for example BOS", prompt=row
        )
    row = int(lengths.argmax())
    if lengths[row] > longest:
        raise _invalid(
            "PROMPT_TOO_LONG",
            f"{field}[{row}]",
            f"has {lengths[row]} tokens, {model.name} takes at most {longest} here; shorten it",
            prompt=row,
            tokens=int(lengths[row]),
            limit=longest,
        )
    _check_vocabulary(model, field, rows)


def _check_vocabulary(model: Bounds, field: str, rows: Ragged) -> None:
    tokens = rows.values.astype(np.int64)
    bad = np.argwhere((tokens < 0) | (tokens >= model.vocabulary))
    if len(bad):
        row = int(np.searchsorted(rows.offsets, bad[0, 0], side="right")) - 1
        raise _out_of_vocabulary(model, f"{field}[{row}]", int(tokens[tuple(bad[0])]), prompt=row)


def _out_of_vocabulary(model: Bounds, field: str, token: int, **metadata: int) -> InvalidArgument:
    return _invalid(
        "TOKEN_OUT_OF_VOCABULARY",
        field,
        f"token {token} is not in 0..{model.vocabulary - 1}; encode the text with the tokenizer of {model.name}",
        token=token,
        **metadata,
    )


def _invalid(reason: str, field: str, description: str, **metadata: int) -> InvalidArgument:
    return InvalidArgument(
        f"{field}: {description}",
        reason=reason,
        metadata={name: str(value) for name, value in metadata.items()},
        violations=[(field, description)],
    )

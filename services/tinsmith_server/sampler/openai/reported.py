"""Of which distribution a server tells the logprobs: found out by asking, since it can't be asked.

The contract wants those of the distribution that tokens were drawn from. Some servers tell the model's own, whatever
the temperature (vLLM without --logprobs-mode processed_logprobs), some only leave the filters out. Where the two differ
the request is refused rather than answered with numbers that would mislead importance sampling.
"""

import asyncio
from dataclasses import dataclass
from typing import Any

from tinsmith_server.sampler.openai.client import Client
from tinsmith_server.sampler.openai.dialect import Dialect
from tinsmith_server.sampler.openai.failures import bad_answer, unsupported
from tinsmith_server.sampler.openai.messages import Completion, TokenLogprobs, parse
from tinsmith_server.sampler.request import SamplingParams

_TOKEN = 1
"""The prompt, and the token that is forced: every vocabulary has it."""
_FORCE = 100.0
_HOT = 2.0
"""The hottest that servers take."""
_TINY = 1e-4
_ALMOST_SURE = -1e-3


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportedLogprobs:
    """What is in the logprobs that a server tells."""

    scaled: bool
    """The temperature."""
    filtered: bool
    """Top-p, top-k and min-p."""
    shifted: bool
    """Penalties, biases and allowed tokens."""

    def check(self, params: SamplingParams) -> None:
        """FailedPrecondition with reason BACKEND_UNSUPPORTED for parameters with which the logprobs would be others."""
        shifts = bool(
            params.frequency_penalty or params.presence_penalty or params.logit_bias or params.allowed_token_ids
        )
        if params.temperature == 0:
            wrong = {"penalties and biases at temperature 0": shifts and self.shifted}
        else:
            filters = params.top_p < 1 or params.top_k > 0 or params.min_p > 0
            wrong = {
                "params.temperature": params.temperature != 1 and not self.scaled,
                "params.top_p, top_k and min_p": filters and not self.filtered,
                "penalties and biases": shifts and not self.shifted,
            }
        for parameter, is_wrong in wrong.items():
            if is_wrong:
                raise unsupported(parameter, _REMEDY)


_REMEDY = (
    "its logprobs would not be those of the distribution that tokens are drawn from; leave it out, or start vLLM with "
    "--logprobs-mode processed_logprobs"
)


async def find_out(client: Client, model: str, dialect: Dialect) -> ReportedLogprobs:
    """Draws single tokens in four ways and looks at their logprobs. Errors as `Client.post`."""
    ways: list[dict[str, Any]] = [{}, {"temperature": _HOT}, {"top_p": _TINY}, {"logit_bias": {str(_TOKEN): _FORCE}}]
    plain, hot, narrow, forced = await asyncio.gather(*(_draw(client, model, dialect, way) for way in ways))
    return ReportedLogprobs(
        scaled=_likeliest(plain) - _likeliest(hot) > _TINY,
        filtered=_own(plain) < _ALMOST_SURE < _own(narrow),
        shifted=_own(forced) > _ALMOST_SURE,
    )


async def _draw(client: Client, model: str, dialect: Dialect, way: dict[str, Any]) -> TokenLogprobs:
    body = {
        **dialect.always,
        "model": model,
        "prompt": [_TOKEN],
        "max_tokens": 1,
        "seed": 0,
        "logprobs": 1,
        "temperature": 1.0,
        "top_p": 1.0,
        **({"top_k": dialect.every_top_k, "min_p": 0.0} if "top_k" in dialect.fields else {}),
        **way,
    }
    found = parse(Completion, await client.post("completions", body)).choices
    if len(found) != 1 or found[0].logprobs is None or len(found[0].logprobs.token_logprobs) != 1:
        raise unsupported("logprobs", "it tells none; serve the model with vLLM, SGLang or the local backend")
    return found[0].logprobs


def _own(scores: TokenLogprobs) -> float:
    """The logprob of the drawn token."""
    if scores.token_logprobs[0] is None:
        raise bad_answer("a token has no logprob")
    return scores.token_logprobs[0]


def _likeliest(scores: TokenLogprobs) -> float:
    """The logprob of the likeliest token, as far as it is told."""
    told = (scores.top_logprobs or [None])[0] or {}
    return max([_own(scores), *told.values()])

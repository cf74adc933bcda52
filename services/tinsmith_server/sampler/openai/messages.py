"""The server's messages, as far as we read them. Parsed from bytes, so that a batch of answers costs little."""

import json
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from tinsmith_server.sampler.openai.failures import bad_answer, of_status

M = TypeVar("M", bound=BaseModel)


class TokenLogprobs(BaseModel):
    """Logprobs of tokens; those of an echoed prompt come before those of the answer."""

    tokens: list[str] = []
    """Text of the tokens, or "token_id:7"."""
    token_logprobs: list[float | None] = []
    top_logprobs: list[dict[str, float] | None] | None = None


class PromptLogprob(BaseModel):
    """What vLLM says of one token at one place of a prompt."""

    logprob: float


class CompletionChoice(BaseModel):
    """One answer, or what has come to it since the last event of a stream."""

    index: int
    logprobs: TokenLogprobs | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    """vLLM: the stop token or string that was found."""
    matched_stop: int | str | None = None
    """SGLang's name for the same."""
    token_ids: list[int] | None = None
    prompt_logprobs: list[dict[int, PromptLogprob] | None] | None = None


class PromptTokensDetails(BaseModel):
    """How the prompt's tokens were read."""

    cached_tokens: int | None = None


class CompletionUsage(BaseModel):
    """Tokens counted."""

    prompt_tokens_details: PromptTokensDetails | None = None


class Completion(BaseModel):
    """Answer of /completions, or one event of its stream."""

    choices: list[CompletionChoice]
    usage: CompletionUsage | None = None

    @property
    def cached_tokens(self) -> int:
        """Prompt tokens that a cache supplied, as far as the server tells."""
        details = self.usage and self.usage.prompt_tokens_details
        return (details and details.cached_tokens) or 0


class ModelCard(BaseModel):
    """One entry of /models."""

    id: str
    owned_by: str = ""
    root: str | None = None
    """vLLM, SGLang: where the weights came from, for example a hub id."""
    parent: str | None = None
    """Of an adapter: its base model."""
    max_model_len: int | None = None


class ModelList(BaseModel):
    """Answer of /models."""

    data: list[ModelCard]


def parse(kind: type[M], content: bytes | str) -> M:
    """The message in some JSON. Internal with reason BACKEND_BAD_ANSWER when it is not one."""
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise bad_answer(f"{kind.__name__} {place}: {first['msg']}".replace(" :", ":")) from error


def parse_event(data: str) -> Completion:
    """An event of a stream. Errors that the server tells in the place of one are those of `failures.of_status`."""
    if data.startswith('{"error"'):
        raise of_status(_status_of(data), {}, data.encode())
    return parse(Completion, data)


def _status_of(data: str) -> int:
    try:
        return int(json.loads(data)["error"]["code"])
    except (ValueError, TypeError, KeyError, OverflowError):
        return 500

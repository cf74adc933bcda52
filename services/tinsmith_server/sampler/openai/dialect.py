"""What kinds of server understand beyond OpenAI's own fields, and what each calls it.

Facts of vLLM are from its 0.32 release, which the tests' server imitates and which we ran against; those of SGLang are
from its source (entrypoints/openai at 0.5), and untried.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["vllm", "sglang", "other"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Dialect:
    """One kind of server."""

    kind: Kind
    fields: frozenset[str] = frozenset()
    """Fields of SamplingParams beyond OpenAI's that it takes under the same name."""
    always: Mapping[str, Any] = field(default_factory=dict)
    """Sent with every request: token ids back, stop strings and special tokens left in, no defaults of the model's
    generation configuration."""
    every_top_k: int = 0
    """The value of top_k that keeps all tokens."""
    draws_many: bool = False
    """Whether `n` answers of one request draw from different seeds. Elsewhere each answer is a request."""
    prompt_logprobs: bool = False
    """Whether it takes `prompt_logprobs`, which names tokens by id. Elsewhere prompts are echoed."""
    top_ids: bool = False
    """Whether the likeliest tokens come as ids, not as text."""
    adapters: str | None = None
    """Folder of load_lora_adapter and unload_lora_adapter, relative to the base URL; None where there are none."""
    joined_name: bool = False
    """Whether an adapter is asked for as BASE:ADAPTER."""

    def adapter_name(self, base: str, adapter: str) -> str:
        """What `model` says to use an adapter."""
        return f"{base}:{adapter}" if self.joined_name else adapter


VLLM = Dialect(
    kind="vllm",
    fields=frozenset({"top_k", "min_p", "stop_token_ids", "ignore_eos", "allowed_token_ids"}),
    always={
        "return_token_ids": True,
        "return_tokens_as_token_ids": True,
        "skip_special_tokens": False,
        "include_stop_str_in_output": True,
        "repetition_penalty": 1.0,
    },
    draws_many=True,
    prompt_logprobs=True,
    top_ids=True,
    adapters="",
)
SGLANG = Dialect(
    kind="sglang",
    fields=frozenset({"top_k", "min_p", "stop_token_ids", "ignore_eos"}),
    always={
        "return_token_ids": True,
        "skip_special_tokens": False,
        "no_stop_trim": True,
        "repetition_penalty": 1.0,
    },
    every_top_k=-1,
    adapters="../",
    joined_name=True,
)
OTHER = Dialect(kind="other", always={"return_token_ids": True, "return_tokens_as_token_ids": True})

_DIALECTS: Mapping[str, Dialect] = {dialect.kind: dialect for dialect in (VLLM, SGLANG, OTHER)}


def dialect_of(kind: str, owner: str) -> Dialect:
    """The dialect of the setting `openai_kind`; for "auto", that of who owns the models by the server's own word."""
    return _DIALECTS.get(owner if kind == "auto" else kind, OTHER)

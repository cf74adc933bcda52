"""Warm-up conversations as tensors, in groups of like lengths."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from tinsmith_server.models.embedded.conversations import Conversation, Message
from tinsmith_server.models.embedded.tokenizer import END_OF_TURN

PROMPT_WEIGHT = 0.1
_BOUNDS = (30, 50, 250)
"""Rows between two of these lengths run together, so that little of a batch is padding."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One conversation in tokens."""

    tokens: Sequence[int]
    prompt_length: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Conversations padded on the right with any token: it has weight 0, and causal attention never looks there."""

    tokens_BT: Tensor
    """int64."""
    weights_BT: Tensor
    """float32: what each token counts as a target."""


class Renderer:
    """Turns conversations into tokens: the prompt as the chat template has it, then the answer and its end."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokenizer = tokenizer
        self._rendered: dict[tuple[Message, ...], str] = {}

    def examples(self, conversations: Sequence[Conversation]) -> list[Example]:
        """One example a conversation. Prompt and answer are split into tokens apart, as in sampling."""
        return [self._example(conversation) for conversation in conversations]

    def _example(self, conversation: Conversation) -> Example:
        encode = self._tokenizer.backend_tokenizer.encode
        prompt = encode(self._prompt(conversation.prompt)).ids
        answer = encode(conversation.answer + END_OF_TURN).ids
        return Example(tokens=[*prompt, *answer], prompt_length=len(prompt))

    def _prompt(self, turns: tuple[Message, ...]) -> str:
        if turns not in self._rendered:
            messages = [{"role": turn.role, "content": turn.content} for turn in turns]
            rendered = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            self._rendered[turns] = str(rendered)
        return self._rendered[turns]


def padded_groups(examples: Sequence[Example]) -> list[Batch]:
    """The examples in groups of like lengths."""
    groups: dict[int, list[Example]] = {}
    for example in examples:
        groups.setdefault(bisect_left(_BOUNDS, len(example.tokens)), []).append(example)
    return [_padded(groups[bound]) for bound in sorted(groups)]


def _padded(examples: Sequence[Example]) -> Batch:
    longest = max(len(example.tokens) for example in examples)
    tokens_BT = torch.zeros(len(examples), longest, dtype=torch.int64)
    weights_BT = torch.zeros(len(examples), longest, dtype=torch.float32)
    for row, example in enumerate(examples):
        tokens_BT[row, : len(example.tokens)] = torch.tensor(example.tokens)
        weights_BT[row, : example.prompt_length] = PROMPT_WEIGHT
        weights_BT[row, example.prompt_length : len(example.tokens)] = 1
    return Batch(tokens_BT=tokens_BT, weights_BT=weights_BT)

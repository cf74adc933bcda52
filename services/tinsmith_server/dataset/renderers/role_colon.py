"""The format `role_colon`: plain paragraphs, for base models and for any tokenizer.

    User: What is 4 + 5?

    Assistant: 9

    User:

A message is a header ("User:") and an output (" content" and an empty line), tokenised apart. An answer ends with the
header of the next user message; so where training counts the last message, "User:" follows and counts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tinsmith_server.dataset.renderers.example import Example
from tinsmith_server.dataset.renderers.messages import Conversation, Message, Parsed, Stop, Termination, ToolSpec
from tinsmith_server.dataset.renderers.tokenizer import Tokenizer
from tinsmith_server.dataset.renderers.training import TrainOnWhat, trained_messages
from tinsmith_server.serving.errors import InvalidArgument

_STOP = "\n\nUser:"
_OVERLAP = "User:"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Piece:
    """A text that is tokenised on its own."""

    text: str
    counts: bool


class RoleColon:
    """See the module; `Renderer` has the contract."""

    has_extension_property = True
    supports_tools = False
    stop = Stop(strings=(_STOP,))

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._begin = [tokenizer.bos_id] if tokenizer.bos_id is not None else []

    def prompts(
        self, conversations: Sequence[Conversation], tools: Sequence[ToolSpec], prefill: str
    ) -> list[list[int]]:
        _refuse_tools(tools)
        ending = [_Piece(text="Assistant:", counts=False), *([_Piece(text=prefill, counts=False)] if prefill else [])]
        groups = [[*_pieces(messages, ()), *ending] for messages in conversations]
        return [[*self._begin, *(token for ids in pieces for token in ids)] for pieces in self._encode(groups)]

    def examples(
        self, conversations: Sequence[Conversation], tools: Sequence[ToolSpec], mode: TrainOnWhat
    ) -> list[list[Example]]:
        _refuse_tools(tools)
        groups = [_training_pieces(messages, mode) for messages in conversations]
        begin_weight = float(mode is TrainOnWhat.ALL_TOKENS)
        return [
            [self._example(pieces, ids, begin_weight)] for pieces, ids in zip(groups, self._encode(groups), strict=True)
        ]

    def parse(self, answers: Sequence[Sequence[int]]) -> list[Parsed]:
        eos_id = self._tokenizer.eos_id
        ended = [len(answer) > 0 and answer[-1] == eos_id for answer in answers]
        kept = [answer[: len(answer) - end] for answer, end in zip(answers, ended, strict=True)]
        return [_parsed(text, end) for text, end in zip(self._tokenizer.decode(kept), ended, strict=True)]

    def _example(self, pieces: Sequence[_Piece], ids: Sequence[Sequence[int]], begin_weight: float) -> Example:
        weights = [[float(piece.counts)] * len(part) for piece, part in zip(pieces, ids, strict=True)]
        return Example(
            tokens=np.array([*self._begin, *(token for part in ids for token in part)], np.int32),
            weights=np.array([*[begin_weight] * len(self._begin), *(w for part in weights for w in part)], np.float32),
        )

    def _encode(self, groups: Sequence[Sequence[_Piece]]) -> list[list[list[int]]]:
        """Token ids of each piece; all texts in one pass."""
        encoded = iter(self._tokenizer.encode([piece.text for pieces in groups for piece in pieces]))
        return [[next(encoded) for _ in pieces] for pieces in groups]


def _training_pieces(messages: Conversation, mode: TrainOnWhat) -> list[_Piece]:
    trained = trained_messages(messages, mode)
    pieces = _pieces(messages, trained)
    if len(messages) - 1 in trained:
        pieces.append(_Piece(text=_OVERLAP, counts=True))
    if mode is TrainOnWhat.ALL_TOKENS:
        return [_Piece(text=piece.text, counts=True) for piece in pieces]
    return pieces


def _pieces(messages: Conversation, trained: Sequence[int]) -> list[_Piece]:
    pieces = []
    for number, message in enumerate(messages):
        pieces.append(_Piece(text=f"{message.role.capitalize()}:", counts=False))
        pieces.append(_Piece(text=f" {_plain_text(message)}\n\n", counts=number in trained))
    return pieces


def _plain_text(message: Message) -> str:
    if message.thinking or message.tool_calls or message.unparsed_tool_calls:
        raise InvalidArgument(
            "role_colon has no place for reasoning or tool calls; render with chat_template",
            reason="TOOLS_UNSUPPORTED",
            metadata={"renderer": "role_colon"},
        )
    return message.content


def _refuse_tools(tools: Sequence[ToolSpec]) -> None:
    if tools:
        raise InvalidArgument(
            "role_colon can't offer tools; render with chat_template",
            reason="TOOLS_UNSUPPORTED",
            metadata={"renderer": "role_colon"},
        )


def _parsed(text: str, ended: bool) -> Parsed:
    content, stop, _ = text.partition(_STOP)  # the token that completes the stop string may hold more than it
    unstopped = Termination.EOS if ended else Termination.MALFORMED
    termination = Termination.STOP_SEQUENCE if stop else unstopped
    return Parsed(message=Message(role="assistant", content=content.strip()), termination=termination)

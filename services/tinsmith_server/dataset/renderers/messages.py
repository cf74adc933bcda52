"""Conversations as renderers see them."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolCall:
    """A call of a tool by the assistant."""

    id: str
    name: str
    arguments_json: str
    """A JSON object as text."""


@dataclass(frozen=True, kw_only=True, slots=True)
class UnparsedToolCall:
    """Text that looks like a tool call but is not a valid one."""

    raw_text: str
    error: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolSpec:
    """A tool offered to the model."""

    name: str
    description: str
    parameters_json: str
    """JSON Schema of its arguments; empty when it takes none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """One message: its text, and the reasoning that came before the text."""

    role: str
    content: str = ""
    thinking: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    unparsed_tool_calls: tuple[UnparsedToolCall, ...] = ()
    tool_call_id: str = ""
    name: str = ""
    trainable: bool = False
    """Read only by TrainOnWhat.CUSTOMIZED."""


Conversation = Sequence[Message]


class Termination(IntEnum):
    """How an answer ended; the numbers are those of the contract."""

    STOP_SEQUENCE = 1
    EOS = 2
    MALFORMED = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Parsed:
    """An answer read as a message."""

    message: Message
    termination: Termination


@dataclass(frozen=True, kw_only=True, slots=True)
class Stop:
    """Where an answer ends, besides the model's own end-of-sequence token."""

    strings: tuple[str, ...] = ()
    token_ids: tuple[int, ...] = ()

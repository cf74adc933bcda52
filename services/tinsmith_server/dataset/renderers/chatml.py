"""Reads what an assistant wrote in ChatML with Qwen's conventions: thoughts, then text, then tool calls.

<think>
thoughts
</think>

text
<tool_call>
{"name": "add", "arguments": {"x": 1}}
</tool_call>
"""

import json
import re
from dataclasses import dataclass

from tinsmith_server.dataset.renderers.messages import Message, ToolCall, UnparsedToolCall

_OPEN, _CLOSE = "<think>", "</think>"
_CALL_OPEN, _CALL_CLOSE = "<tool_call>", "</tool_call>"
_CALL = re.compile(rf"\n?{_CALL_OPEN}(.*?)(?:{_CALL_CLOSE}|(?={_CALL_OPEN})|\Z)", re.DOTALL)


@dataclass(frozen=True, kw_only=True, slots=True)
class Markup:
    """What a chat template gives meaning to."""

    thoughts: bool
    tool_calls: bool


def read_answer(text: str, markup: Markup) -> Message:
    """The message that `text` is, which has no stop sequence at its end. Nothing of the text is lost: a tool call that
    is not valid becomes an UnparsedToolCall, thoughts that do not end stay text."""
    thinking, text = _thoughts(text) if markup.thoughts else ("", text)
    if not (markup.tool_calls and _CALL_OPEN in text):
        return Message(role="assistant", content=text, thinking=thinking)
    calls: list[ToolCall] = []
    unparsed: list[UnparsedToolCall] = []
    for number, match in enumerate(_CALL.finditer(text)):
        read = _call(match, number)
        (calls if isinstance(read, ToolCall) else unparsed).append(read)  # type: ignore[arg-type]  # mypy sees no pairs
    return Message(
        role="assistant",
        content=_CALL.sub("", text),
        thinking=thinking,
        tool_calls=tuple(calls),
        unparsed_tool_calls=tuple(unparsed),
    )


def _thoughts(text: str) -> tuple[str, str]:
    begin = text.lstrip()
    if not begin.startswith(_OPEN) or _CLOSE not in begin:
        return "", text
    thoughts, _, rest = begin.removeprefix(_OPEN).partition(_CLOSE)
    return thoughts.strip("\n"), rest.lstrip("\n")


def _call(match: re.Match[str], number: int) -> ToolCall | UnparsedToolCall:
    raw = match.group(0)
    if not raw.endswith(_CALL_CLOSE):
        return UnparsedToolCall(raw_text=raw, error=f"{_CALL_CLOSE} is missing")
    try:
        call = json.loads(match.group(1))
        json.dumps(call, ensure_ascii=False).encode()  # an escaped half of a character can't travel as UTF-8
    except (ValueError, RecursionError) as error:
        return UnparsedToolCall(raw_text=raw, error=f"not JSON: {error}")
    if not isinstance(call, dict) or not isinstance(call.get("name"), str):
        return UnparsedToolCall(raw_text=raw, error='must be an object with a text "name"')
    arguments = call.get("arguments", {})
    if not isinstance(arguments, dict):
        return UnparsedToolCall(raw_text=raw, error='"arguments" must be an object')
    return ToolCall(id=f"call_{number}", name=call["name"], arguments_json=json.dumps(arguments, ensure_ascii=False))

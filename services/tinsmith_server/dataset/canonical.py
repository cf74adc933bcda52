"""Canonical shapes of rows. A canonical row is a dict with fixed columns, so that operations work on it as on any:

    PROBLEM       id, messages, answer, metadata
    CONVERSATION  messages
    PROMPT        messages
    PREFERENCE    prompt, first, second, label (1: the first is better, 2: the second, 3: neither)

Messages are dicts with role, content and, where there are any, thinking, tool_calls, tool_call_id, name.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tinsmith_server.dataset import spec
from tinsmith_server.dataset.paths import reader
from tinsmith_server.dataset.rows import Row, RowShape
from tinsmith_server.serving.errors import InvalidArgument, NotFound

SHAPE_COLUMNS: Mapping[RowShape, tuple[str, ...]] = {
    RowShape.PROBLEM: ("id", "messages", "answer", "metadata"),
    RowShape.CONVERSATION: ("messages",),
    RowShape.PROMPT: ("messages",),
    RowShape.PREFERENCE: ("prompt", "first", "second", "label"),
}
FIRST, SECOND, TIE = 1, 2, 3

_PARTS: Mapping[RowShape, tuple[tuple[str, ...], tuple[str, ...]]] = {
    RowShape.PROBLEM: (("question", "answer"), ("id", "metadata")),
    RowShape.CONVERSATION: (("messages",), ()),
    RowShape.PROMPT: (("question",), ()),
    RowShape.PREFERENCE: (("prompt", "first", "second"), ("label",)),
}
"""Of each shape the parts that a row must have and those that it may have."""

_ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant"}
_LABELS = {"first": FIRST, "a": FIRST, "second": SECOND, "b": SECOND, "tie": TIE}

Reader = Callable[[Any], Any]


def canonicalizer(operation: spec.Canonicalize, names: Sequence[str]) -> Callable[[Row], Row]:
    """A function from a raw row to a canonical one.

    A part without a column given is the column of its own name. InvalidArgument with reason BAD_SHAPE for a part that
    the shape has not, NotFound with reason COLUMN_NOT_FOUND for a column that a needed part lacks. The function
    raises InvalidArgument with reason BAD_ROW for a row whose value does not fit.
    """
    readers = _readers(operation, names)
    few_shot = [{"role": role, "content": content} for role, content in operation.few_shot]
    match operation.shape:
        case RowShape.PROBLEM:
            return lambda row: _problem(row, readers, few_shot, operation.question_suffix)
        case RowShape.PROMPT:
            return lambda row: {"messages": _prompt(row, readers, few_shot, operation.question_suffix)}
        case RowShape.CONVERSATION:
            return lambda row: {"messages": messages_of(readers["messages"](row), "messages")}
        case _:
            return lambda row: _preference(row, readers)


def _readers(operation: spec.Canonicalize, names: Sequence[str]) -> dict[str, Reader]:
    needed, optional = _PARTS[operation.shape]
    given = dict(operation.columns)
    for part in given:
        if part not in (*needed, *optional):
            raise InvalidArgument(
                f"{operation.shape.name} has no part {part!r}; it has {', '.join((*needed, *optional))}",
                reason="BAD_SHAPE",
                metadata={"shape": operation.shape.name, "part": part},
            )
    for part in needed:
        if part not in given and part not in names:
            raise NotFound(
                f"{operation.shape.name} needs {part!r}: say in `columns` which of {', '.join(names)} it is",
                reason="COLUMN_NOT_FOUND",
                metadata={"column": part, "columns": ",".join(names)},
            )
    parts = [part for part in (*needed, *optional) if part in given or part in names]
    return {part: reader(given.get(part, part)) for part in parts}


def _problem(row: Row, readers: Mapping[str, Reader], few_shot: Sequence[Row], suffix: str) -> Row:
    number = readers["id"](row) if "id" in readers else None
    return {
        "id": "" if number is None else str(number),
        "messages": _prompt(row, readers, few_shot, suffix),
        "answer": _text(readers["answer"](row), "answer"),
        "metadata": readers["metadata"](row) if "metadata" in readers else None,
    }


def _prompt(row: Row, readers: Mapping[str, Reader], few_shot: Sequence[Row], suffix: str) -> list[Row]:
    question = readers["question"](row)
    if isinstance(question, list):
        return [*few_shot, *messages_of(question, "question")]
    return [*few_shot, {"role": "user", "content": _text(question, "question") + suffix}]


def _preference(row: Row, readers: Mapping[str, Reader]) -> Row:
    prompt = readers["prompt"](row)
    return {
        "prompt": [{"role": "user", "content": prompt}] if isinstance(prompt, str) else messages_of(prompt, "prompt"),
        "first": _answer(readers["first"](row), "first"),
        "second": _answer(readers["second"](row), "second"),
        "label": _label(readers["label"](row)) if "label" in readers else FIRST,
    }


def _answer(value: Any, part: str) -> list[Row]:
    return [{"role": "assistant", "content": value}] if isinstance(value, str) else messages_of(value, part)


def _label(value: Any) -> int:
    if value in (FIRST, SECOND, TIE) and not isinstance(value, bool):
        return int(value)
    if isinstance(value, str) and value.lower() in _LABELS:
        return _LABELS[value.lower()]
    raise _bad("label", f"{value!r} is none of {', '.join(_LABELS)}, 1, 2, 3")


def messages_of(value: Any, part: str) -> list[Row]:
    """Messages of a row in one form: {"role", "content"}, or {"from", "value"} as in ShareGPT."""
    if not isinstance(value, list) or not value:
        raise _bad(part, "is no list of messages")
    return [_message(item, part) for item in value]


def _message(item: Any, part: str) -> Row:
    if not isinstance(item, dict):
        raise _bad(part, "has a message that is no object")
    role = item.get("role", item.get("from"))
    if not isinstance(role, str):
        raise _bad(part, "has a message without a role")
    content = item.get("content", item.get("value"))
    made: Row = {"role": _ROLES.get(role, role), "content": _content(content, part)}
    for name, wanted in (("thinking", "reasoning_content"), ("tool_call_id", "tool_call_id"), ("name", "name")):
        if isinstance(found := item.get(name) or item.get(wanted), str):
            made[name] = found
    if calls := item.get("tool_calls"):
        if not isinstance(calls, list):
            raise _bad(part, "has tool calls that are no list")
        made["tool_calls"] = [_tool_call(call, part) for call in calls]
    return made


def _content(content: Any, part: str) -> str:
    if content is None:
        return ""
    if isinstance(content, list):
        return "".join(_text(piece.get("text") if isinstance(piece, dict) else piece, part) for piece in content)
    return _text(content, part)


def _tool_call(call: Any, part: str) -> Row:
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise _bad(part, "has a tool call without a name")
    arguments = function.get("arguments") or {}
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return {"id": str(call.get("id") or ""), "name": function["name"], "arguments_json": text}


def _text(value: Any, part: str) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    raise _bad(part, f"is {type(value).__name__}, not text")


def _bad(part: str, problem: str) -> InvalidArgument:
    return InvalidArgument(
        f"a row can't be given its shape: {part!r} {problem}; drop such rows with a filter",
        reason="BAD_ROW",
        metadata={"part": part, "problem": problem},
    )

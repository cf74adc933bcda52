"""Messages as chat templates take them: plain dicts, as `transformers` and OpenAI have them."""

import json
from typing import Any

from tinsmith_server.dataset.renderers.messages import Message, ToolCall, ToolSpec
from tinsmith_server.serving.errors import InvalidArgument


def template_message(message: Message) -> dict[str, Any]:
    """A message for `apply_chat_template`. InvalidArgument with reason BAD_JSON: arguments that are no JSON object."""
    made: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.thinking:
        made["reasoning_content"] = message.thinking
    if message.tool_calls:
        made["tool_calls"] = [_tool_call(call) for call in message.tool_calls]
    if message.unparsed_tool_calls:
        made["content"] += "".join(call.raw_text for call in message.unparsed_tool_calls)
    if message.name:
        made["name"] = message.name
    if message.tool_call_id:
        made["tool_call_id"] = message.tool_call_id
    return made


def template_tool(tool: ToolSpec) -> dict[str, Any]:
    """A tool for `apply_chat_template`. InvalidArgument with reason BAD_JSON for parameters that are no JSON object."""
    parameters = _object(tool.parameters_json or '{"type": "object", "properties": {}}', f"parameters of {tool.name}")
    function = {"name": tool.name, "description": tool.description, "parameters": parameters}
    return {"type": "function", "function": function}


def _tool_call(call: ToolCall) -> dict[str, Any]:
    arguments = _object(call.arguments_json or "{}", f"arguments of the call of {call.name}")
    made: dict[str, Any] = {"type": "function", "function": {"name": call.name, "arguments": arguments}}
    return made | {"id": call.id} if call.id else made


def _object(text: str, what: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
        json.dumps(value, ensure_ascii=False).encode()  # an escaped half of a character is no text for a tokenizer
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise InvalidArgument(f"{what} must be a JSON object", reason="BAD_JSON", metadata={"what": what})
    return value

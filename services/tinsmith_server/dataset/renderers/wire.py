"""The renderer's messages and its domain, one into the other."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinsmith.arrays import flat_and_offsets, ragged, ragged_of
from tinsmith.renderer.v1 import renderer_service_pb2 as pb
from tinsmith.types.v1 import data_pb2, message_pb2, tensor_pb2
from tinsmith_server.dataset.renderers.example import Example
from tinsmith_server.dataset.renderers.messages import (
    Conversation,
    Message,
    Parsed,
    Stop,
    ToolCall,
    ToolSpec,
    UnparsedToolCall,
)
from tinsmith_server.dataset.renderers.training import TrainOnWhat
from tinsmith_server.serving.errors import FailedPrecondition, InvalidArgument


def conversations(field: str, messages: Iterable[message_pb2.Conversation]) -> list[Conversation]:
    """Conversations as the domain has them. InvalidArgument with reason EMPTY_CONVERSATION names an empty one."""
    return [conversation(f"{field}[{number}]", item) for number, item in enumerate(messages)]


def conversation(field: str, item: message_pb2.Conversation) -> Conversation:
    """A conversation as the domain has it. InvalidArgument with reason EMPTY_CONVERSATION, naming `field`."""
    if not item.messages:
        raise InvalidArgument(
            f"{field} has no messages", reason="EMPTY_CONVERSATION", violations=[(field, "has no messages")]
        )
    return [_message(message) for message in item.messages]


def _message(message: message_pb2.Message) -> Message:
    if not (message.parts or message.tool_calls or message.unparsed_tool_calls):  # nearly all of them
        return Message(
            role=message.role,
            content=message.content,
            tool_call_id=message.tool_call_id,
            name=message.name,
            trainable=message.trainable,
        )
    thinking, text = _parts(message.parts) if message.parts else ("", message.content)
    return Message(
        role=message.role,
        content=text,
        thinking=thinking,
        tool_calls=tuple(
            ToolCall(id=call.id, name=call.name, arguments_json=call.arguments_json) for call in message.tool_calls
        ),
        unparsed_tool_calls=tuple(
            UnparsedToolCall(raw_text=call.raw_text, error=call.error) for call in message.unparsed_tool_calls
        ),
        tool_call_id=message.tool_call_id,
        name=message.name,
        trainable=message.trainable,
    )


def _parts(parts: Iterable[message_pb2.ContentPart]) -> tuple[str, str]:
    """Reasoning and text, each joined."""
    thinking: list[str] = []
    text: list[str] = []
    for part in parts:
        kind = part.WhichOneof("part")
        if kind not in ("text", "thinking"):
            raise FailedPrecondition(
                f"a message has a part of {kind or 'no kind'}; the formats served here write text only",
                reason="MODALITY_UNSUPPORTED",
                metadata={"part": kind or ""},
            )
        (text if kind == "text" else thinking).append(part.text or part.thinking)
    return "".join(thinking), "".join(text)


def tools(specs: Iterable[message_pb2.ToolSpec]) -> list[ToolSpec]:
    """Tools as the domain has them."""
    return [
        ToolSpec(name=spec.name, description=spec.description, parameters_json=spec.parameters_json) for spec in specs
    ]


def train_on_what(value: "pb.TrainOnWhat.ValueType") -> TrainOnWhat:
    """What training counts; unset means every assistant message. InvalidArgument for a number that is none of them."""
    try:
        return TrainOnWhat(value or pb.TRAIN_ON_WHAT_ALL_ASSISTANT_MESSAGES)
    except ValueError:
        raise InvalidArgument(
            f"train_on_what {value} is not known",
            reason="INVALID_REQUEST",
            violations=[("train_on_what", "is not known")],
        ) from None


def token_rows(field: str, message: tensor_pb2.RaggedTensor, vocabulary: int) -> list[list[int]]:
    """int32 rows of token ids. InvalidArgument with reason BAD_TENSOR or TOKEN_OUT_OF_VOCABULARY."""
    flat, bounds = _flat(field, message, tensor_pb2.DTYPE_INT32, "int32")
    bad = flat[(flat < 0) | (flat >= vocabulary)]
    if len(bad):
        raise InvalidArgument(
            f"{field}: token {bad[0]} is not in 0..{vocabulary - 1}",
            reason="TOKEN_OUT_OF_VOCABULARY",
            metadata={"token": str(bad[0])},
            violations=[(field, f"token {bad[0]} is out of the vocabulary")],
        )
    tokens = flat.tolist()
    return [tokens[start:stop] for start, stop in bounds]


def weight_rows(
    field: str, message: tensor_pb2.RaggedTensor, like: Sequence[Sequence[int]]
) -> list[NDArray[np.float32]]:
    """float32 rows as long as those of `like`. InvalidArgument with reason BAD_TENSOR."""
    flat, bounds = _flat(field, message, tensor_pb2.DTYPE_FLOAT32, "float32")
    if [stop - start for start, stop in bounds] != [len(row) for row in like]:
        raise _bad_tensor(field, "must have rows as long as those of tokens")
    return [flat[start:stop] for start, stop in bounds]


def _flat(
    field: str, message: tensor_pb2.RaggedTensor, dtype: "tensor_pb2.Dtype.ValueType", name: str
) -> tuple[NDArray[Any], list[tuple[int, int]]]:
    """The rows laid end to end, and where each begins and ends."""
    if message.dtype != dtype:
        raise _bad_tensor(field, f"must hold {name}")
    if message.inner_shape:
        raise _bad_tensor(field, "must hold scalars, has an inner shape")
    try:
        flat, offsets = flat_and_offsets(message)
    except ValueError as error:
        raise _bad_tensor(field, str(error)) from error
    places = offsets.tolist()
    return flat, list(pairwise(places))


def _bad_tensor(field: str, description: str) -> InvalidArgument:
    return InvalidArgument(f"{field}: {description}", reason="BAD_TENSOR", violations=[(field, description)])


def ragged_tokens(rows: Sequence[Sequence[int]]) -> tensor_pb2.RaggedTensor:
    """Rows of token ids as a ragged tensor."""
    offsets = np.zeros(len(rows) + 1, "<i8")
    np.cumsum([len(row) for row in rows], out=offsets[1:])
    return ragged_of(np.array([token for row in rows for token in row], "<i4"), offsets)


def stop_condition(stop: Stop) -> data_pb2.StopCondition:
    """Where an answer ends, as a message."""
    return data_pb2.StopCondition(strings=stop.strings, token_ids=stop.token_ids)


def training_response(groups: Sequence[Sequence[Example]]) -> pb.RenderTrainingResponse:
    """Examples of conversations as columns."""
    examples = [example for group in groups for example in group]
    return pb.RenderTrainingResponse(
        tokens=ragged([example.tokens for example in examples], "<i4"),
        weights=ragged([example.weights for example in examples], "<f4"),
        conversation_index=[number for number, group in enumerate(groups) for _ in group],
    )


def parsed_response(parsed: Parsed) -> pb.ParsedResponse:
    """An answer read as a message."""
    return pb.ParsedResponse(
        message=message_of(parsed.message),
        termination=parsed.termination.value,  # type: ignore[arg-type]  # the numbers are those of the contract
    )


def message_of(message: Message) -> message_pb2.Message:
    """A message of the domain as one of the wire."""
    if not (message.thinking or message.tool_calls or message.unparsed_tool_calls):
        return message_pb2.Message(role=message.role, content=message.content)
    made = message_pb2.Message(
        role=message.role,
        tool_calls=[
            message_pb2.ToolCall(id=call.id, name=call.name, arguments_json=call.arguments_json)
            for call in message.tool_calls
        ],
        unparsed_tool_calls=[
            message_pb2.UnparsedToolCall(raw_text=call.raw_text, error=call.error)
            for call in message.unparsed_tool_calls
        ],
    )
    if message.thinking:
        made.parts.add(thinking=message.thinking)
        made.parts.add(text=message.content)
    else:
        made.content = message.content
    return made


def weighted_runs(runs: Iterable[tuple[str, float]]) -> pb.WeightedRuns:
    """Runs of one example as a message."""
    return pb.WeightedRuns(runs=[pb.WeightedRun(text=text, weight=weight) for text, weight in runs])

"""The dataset service's messages and its domain, one into the other."""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from google.protobuf.message import Message

from tinsmith.arrays import ragged
from tinsmith.dataset.v1 import dataset_service_pb2 as pb
from tinsmith.dataset.v1 import spec_pb2
from tinsmith.types.v1 import data_pb2, message_pb2, row_pb2, tensor_pb2
from tinsmith_server.dataset import spec
from tinsmith_server.dataset.batching import RowBatch
from tinsmith_server.dataset.canonical import FIRST, SECOND
from tinsmith_server.dataset.columns import Column
from tinsmith_server.dataset.datums import DatumFormat, Datums, Normalization
from tinsmith_server.dataset.renderers import wire as renderer_wire
from tinsmith_server.dataset.renderers.messages import Conversation
from tinsmith_server.dataset.rows import Row, RowShape
from tinsmith_server.dataset.sources.catalogue import CatalogueEntry
from tinsmith_server.serving.errors import InvalidArgument, Unimplemented

# Datasets as values.


def dataset_spec(message: spec_pb2.DatasetSpec) -> spec.DatasetSpec:
    """A DatasetSpec as the domain has it. Unimplemented with reason NOT_IMPLEMENTED for uploads and interleaving."""
    return spec.DatasetSpec(
        source=_variant(message, "source", _SOURCES),
        operations=tuple(_variant(operation, "operation", _OPERATIONS) for operation in message.operations),
    )


def _variant(message: Message, oneof: str, readers: Mapping[str, Callable[[Any], Any]]) -> Any:
    name = message.WhichOneof(oneof) or ""
    if name not in readers:
        raise Unimplemented(
            f"{name or oneof} is not implemented yet; there are {', '.join(readers)}",
            reason="NOT_IMPLEMENTED",
            metadata={oneof: name},
        )
    return readers[name](getattr(message, name))


def _catalogue(message: spec_pb2.CatalogueSource) -> spec.CatalogueSource:
    return spec.CatalogueSource(name=message.name, split=message.split, options=tuple(sorted(message.options.items())))


def _hub(message: spec_pb2.HubSource) -> spec.HubSource:
    return spec.HubSource(
        id=message.id,
        config=message.config,
        split=message.split,
        revision=message.revision,
        streaming=message.streaming,
    )


def _files(message: spec_pb2.FilesSource) -> spec.FilesSource:
    if message.format not in spec_pb2.FileFormat.values():
        raise _unknown_number("files.format", message.format)
    return spec.FilesSource(
        uris=tuple(message.uris),
        format=spec.FileFormat(message.format),
        skip_bad_rows=message.bad_rows == spec_pb2.BAD_ROW_POLICY_SKIP,
    )


def _canonicalize(message: spec_pb2.Canonicalize) -> spec.Canonicalize:
    return spec.Canonicalize(
        shape=RowShape(message.shape),
        columns=tuple(sorted(message.columns.items())),
        few_shot=tuple(map(_few_shot_turn, message.few_shot)),
        question_suffix=message.question_suffix,
    )


def _few_shot_turn(message: message_pb2.Message) -> tuple[str, str]:
    if message.parts or message.tool_calls:
        raise InvalidArgument(
            "a turn of few_shot has parts or tool calls; it can have a role and a content",
            reason="INVALID_REQUEST",
            violations=[("canonicalize.few_shot", "must be text")],
        )
    return message.role, message.content


_SOURCES: Mapping[str, Callable[[Any], spec.Source]] = {
    "catalogue": _catalogue,
    "hub": _hub,
    "files": _files,
    "inline": lambda message: spec.InlineSource(rows_json=tuple(message.rows_json)),
}
_OPERATIONS: Mapping[str, Callable[[Any], spec.Operation]] = {
    "select_columns": lambda message: spec.SelectColumns(columns=tuple(message.columns)),
    "map_fields": lambda message: spec.MapFields(
        fields=tuple(sorted(message.fields.items())), keep_others=message.keep_others
    ),
    "filter": lambda message: spec.Filter(expression=message.expression),
    "shuffle": lambda message: spec.Shuffle(seed=message.seed, buffer_size=message.buffer_size),
    "take": lambda message: spec.Take(count=message.count),
    "skip": lambda message: spec.Skip(count=message.count),
    "slice": lambda message: spec.Slice(start=message.start, stop=message.stop, step=message.step),
    "concat": lambda message: spec.Concat(datasets=tuple(map(dataset_spec, message.datasets))),
    "split": lambda message: spec.Split(
        test_size=message.test_size,
        test_fraction=message.test_fraction,
        seed=message.seed,
        test_side=message.test_side,
    ),
    "dedupe": lambda message: spec.Dedupe(columns=tuple(message.columns)),
    "sample": lambda message: spec.SampleRows(count=message.count, seed=message.seed),
    "canonicalize": _canonicalize,
}


def batching(message: pb.Batching) -> spec.Batching:
    """A Batching as the domain has it."""
    return spec.Batching(
        batch_size=message.batch_size,
        drop_last=message.drop_last,
        epochs=message.epochs,
        shuffle_epochs=message.shuffle_epochs,
        seed=message.seed,
        continuous=message.continuous,
    )


def dataset_info(entry: CatalogueEntry) -> pb.DatasetInfo:
    """An entry of the catalogue as a message."""
    return pb.DatasetInfo(
        name=entry.name,
        description=entry.description,
        hub_id=entry.hub_id,
        splits=entry.splits,
        shape=entry.shape.value,  # type: ignore[arg-type]  # the numbers are those of the contract
        options=entry.options,
    )


def column_info(column: Column) -> pb.ColumnInfo:
    """A column as a message."""
    return pb.ColumnInfo(name=column.name, type=column.type)


# Rows.


def batch(found: RowBatch, shape: RowShape, fingerprint: str, *, with_rows: bool = True) -> pb.Batch:
    """A batch as a message."""
    return pb.Batch(
        rows=rows(found.rows, shape) if with_rows else None,
        epoch=found.epoch,
        index=found.index,
        next=pb.Cursor(batch=found.index + 1, fingerprint=fingerprint),
    )


def rows(found: Iterable[Row], shape: RowShape) -> list[row_pb2.Row]:
    """Rows as messages of their shape."""
    return list(map(_ROWS[shape], found))


def _json_row(row: Row) -> row_pb2.Row:
    return row_pb2.Row(json=json.dumps(row, ensure_ascii=False).encode())


def _problem_row(row: Row) -> row_pb2.Row:
    metadata = row["metadata"]
    return row_pb2.Row(
        problem=row_pb2.Problem(
            id=row["id"],
            messages=[_message(message) for message in row["messages"]],
            answer=row["answer"],
            metadata_json="" if metadata is None else json.dumps(metadata, ensure_ascii=False),
        )
    )


def _preference_row(row: Row) -> row_pb2.Row:
    return row_pb2.Row(
        preference=row_pb2.PreferencePair(
            prompt=_conversation(row["prompt"]),
            first=_conversation(row["first"]),
            second=_conversation(row["second"]),
            label=row["label"],
        )
    )


_ROWS: Mapping[RowShape, Callable[[Row], row_pb2.Row]] = {
    RowShape.JSON: _json_row,
    RowShape.PROBLEM: _problem_row,
    RowShape.CONVERSATION: lambda row: row_pb2.Row(conversation=_conversation(row["messages"])),
    RowShape.PROMPT: lambda row: row_pb2.Row(prompt=_conversation(row["messages"])),
    RowShape.PREFERENCE: _preference_row,
}


def _conversation(messages: Iterable[Mapping[str, Any]]) -> message_pb2.Conversation:
    return message_pb2.Conversation(messages=map(_message, messages))


def _message(message: Mapping[str, Any]) -> message_pb2.Message:
    if len(message) == 2:  # role and content: nearly all of them
        return message_pb2.Message(role=message["role"], content=message["content"])
    made = message_pb2.Message(
        role=message["role"],
        tool_calls=[message_pb2.ToolCall(**call) for call in message.get("tool_calls", ())],
        tool_call_id=message.get("tool_call_id", ""),
        name=message.get("name", ""),
    )
    if message.get("thinking"):
        made.parts.add(thinking=message["thinking"])
        made.parts.add(text=message["content"])
    else:
        made.content = message["content"]
    return made


# Data for a loss.


def datum_format(message: pb.DatumFormat) -> DatumFormat:
    """How rows become data, as the domain has it."""
    if message.normalization not in pb.WeightNormalization.values():
        raise _unknown_number("format.normalization", message.normalization)
    return DatumFormat(
        model=message.model,
        renderer=message.renderer,
        train_on_what=renderer_wire.train_on_what(message.train_on_what),
        max_length=message.max_length,
        normalization=Normalization(message.normalization),
    )


def conversations_of(row: row_pb2.Row, number: int) -> list[Conversation]:
    """What a row gives to learn from: a conversation, or both sides of a pair, the better one first.

    InvalidArgument with reason ROW_SHAPE_UNSUPPORTED or NO_PREFERENCE.
    """
    field = f"rows[{number}]"
    match row.WhichOneof("row"):
        case "conversation":
            return [renderer_wire.conversation(field, row.conversation)]
        case "preference":
            return _sides(row.preference, field)
        case shape:
            raise InvalidArgument(
                f"{field} is {shape or 'empty'}; data are built of conversations and preference pairs",
                reason="ROW_SHAPE_UNSUPPORTED",
                metadata={"row": str(number), "shape": shape or ""},
                violations=[(field, "is neither conversation nor preference")],
            )


def _sides(pair: row_pb2.PreferencePair, field: str) -> list[Conversation]:
    if pair.label not in (FIRST, SECOND):
        raise InvalidArgument(
            f"{field} does not say which answer is better; leave such pairs out",
            reason="NO_PREFERENCE",
            violations=[(f"{field}.preference.label", "must be FIRST or SECOND")],
        )
    answers = (pair.first, pair.second) if pair.label == FIRST else (pair.second, pair.first)
    return [
        renderer_wire.conversation(field, message_pb2.Conversation(messages=[*pair.prompt.messages, *answer.messages]))
        for answer in answers
    ]


def built_datums(datums: Datums) -> pb.BuiltDatums:
    """Data as columns."""
    return pb.BuiltDatums(
        batch=data_pb2.DatumBatch(
            tokens=ragged(datums.tokens, "<i4"),
            loss_inputs={
                "target_tokens": tensor_pb2.Column(ragged=ragged(datums.targets, "<i8")),
                "weights": tensor_pb2.Column(ragged=ragged(datums.weights, "<f4")),
            },
        ),
        row_index=datums.row_index,
        truncated=datums.truncated,
    )


def _unknown_number(field: str, number: int) -> InvalidArgument:
    return InvalidArgument(
        f"{field} {number} is not known", reason="INVALID_REQUEST", violations=[(field, "is not known")]
    )

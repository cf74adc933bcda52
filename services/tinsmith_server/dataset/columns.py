"""Columns and their types, learnt from the values."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tinsmith_server.serving.errors import InvalidArgument

MIXED = "mixed"
NULL = "null"


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """A column of raw rows."""

    name: str
    type: str
    """For example "string", "int64", "list<struct<role: string, content: string>>"; "mixed" when values differ."""


def columns_of(names: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> tuple[Column, ...]:
    """The columns of rows that are in memory."""
    types = dict.fromkeys(names, NULL)
    for row in rows:
        for name in names:
            types[name] = _merge(types[name], type_of(row[name]))
    return tuple(Column(name=name, type=kind) for name, kind in types.items())


def type_of(value: Any) -> str:
    """The type of one value."""
    match value:
        case None:
            return NULL
        case bool():
            return "bool"
        case int():
            return "int64"
        case float():
            return "double"
        case str():
            return "string"
        case list():
            inner = NULL
            for item in value:
                inner = _merge(inner, type_of(item))
            return f"list<{inner}>"
        case dict():
            return f"struct<{', '.join(f'{name}: {type_of(item)}' for name, item in value.items())}>"
        case _:
            return type(value).__name__


def union(parts: Sequence[Sequence[Column]]) -> tuple[Column, ...]:
    """The columns of datasets laid one after the other.

    InvalidArgument with reason TYPE_CLASH when a column is of different kinds, such as text and numbers.
    """
    types: dict[str, str] = {}
    for column in (column for part in parts for column in part):
        known = types.get(column.name, NULL)
        if _kind(known) != _kind(column.type) and NULL not in (known, column.type):
            raise InvalidArgument(
                f"column {column.name!r} is {known} in one dataset, {column.type} in another; rename it by map_fields",
                reason="TYPE_CLASH",
                metadata={"column": column.name, "first": known, "second": column.type},
            )
        types[column.name] = _merge(known, column.type)
    return tuple(Column(name=name, type=kind) for name, kind in types.items())


def _merge(first: str, second: str) -> str:
    if first == second or second == NULL:
        return first
    if first == NULL:
        return second
    if {first, second} == {"int64", "double"}:
        return "double"
    if _kind(first) != _kind(second):
        return MIXED
    # Lists of unlike elements and structs of unlike fields: the longer description says more.
    return max(first, second, key=len)


def _kind(name: str) -> str:
    """Numbers are one kind, texts, lists and structs others."""
    root = name.partition("<")[0]
    return {"int64": "number", "double": "number", "large_string": "string"}.get(root, root)

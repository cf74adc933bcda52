"""Values of fields as text: what stands right of the `=` in an override, and in the `default_value` option."""

import json
import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any, cast

from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message

_BOOLS = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
_INTEGER = re.compile(r"[+-]?0*([0-9]+)")
_MOST_DIGITS = 20
"""Python refuses to read numbers of thousands of digits; none of ours has more than these."""

INTEGER_RANGES: Mapping[int, tuple[str, int, int]] = {
    FieldDescriptor.TYPE_INT32: ("int32", -(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_SINT32: ("int32", -(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_UINT32: ("uint32", 0, 2**32 - 1),
    FieldDescriptor.TYPE_INT64: ("int64", -(2**63), 2**63 - 1),
    FieldDescriptor.TYPE_SINT64: ("int64", -(2**63), 2**63 - 1),
    FieldDescriptor.TYPE_UINT64: ("uint64", 0, 2**64 - 1),
}


class BadText(ValueError):
    """The text is no value of the field's type; the message says what would be."""


def descriptor_of(message: Message) -> Descriptor:
    """The message's type. Its stubs name two classes of which only this one exists."""
    return cast(Descriptor, message.DESCRIPTOR)


def set_from_text(message: Message, field: FieldDescriptor, text: str) -> None:
    """Sets the field to the value that the text says. BadText when it says none.

    Numbers, words and booleans are written as they are; lists as "a,b" or as a JSON array; maps as
    "key=value,key=value" or as a JSON object; messages and lists of messages as JSON.
    """
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        _set_map(message, field, text)
    elif field.message_type is not None:
        _set_message(message, field, text)
    elif field.is_repeated:
        values = [scalar(field, item) for item in _list(text)]
        message.ClearField(field.name)
        getattr(message, field.name).extend(values)
    else:
        setattr(message, field.name, scalar(field, text))


def scalar(field: FieldDescriptor, text: str) -> Any:
    """One value of the field's type. BadText when the text is none."""
    if field.type in INTEGER_RANGES:
        return _integer(*INTEGER_RANGES[field.type], text)
    return _READERS[field.type](field, text)


def _integer(name: str, least: int, most: int, text: str) -> int:
    match = _INTEGER.fullmatch(text.strip())
    if match is None:
        raise BadText(f"{text!r} is not an {name}: write a whole number, for example 8")
    if len(match.group(1)) > _MOST_DIGITS or not least <= int(text) <= most:
        raise BadText(f"{text} does not fit an {name}")
    return int(text)


def _number(field: FieldDescriptor, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise BadText(f"{text!r} is not a number: write for example 0.5 or 1e-5") from None


def _boolean(field: FieldDescriptor, text: str) -> bool:
    if text.strip().lower() not in _BOOLS:
        raise BadText(f"{text!r} is not a bool: write true or false")
    return _BOOLS[text.strip().lower()]


def _enum(field: FieldDescriptor, text: str) -> int:
    assert field.enum_type is not None
    names = short_names(field.enum_type)
    wanted = text.strip().upper()
    for short, value in names.items():
        if wanted in (short, field.enum_type.values_by_number[value].name):
            return value
    near = get_close_matches(wanted, names, n=1)
    hint = f"; did you mean {near[0].lower()}?" if near else ""
    raise BadText(f"{text!r} is none of {', '.join(name.lower() for name in names)}{hint}")


_READERS: Mapping[int, Callable[[FieldDescriptor, str], Any]] = {
    FieldDescriptor.TYPE_DOUBLE: _number,
    FieldDescriptor.TYPE_FLOAT: _number,
    FieldDescriptor.TYPE_BOOL: _boolean,
    FieldDescriptor.TYPE_ENUM: _enum,
    FieldDescriptor.TYPE_STRING: lambda field, text: text,
    FieldDescriptor.TYPE_BYTES: lambda field, text: text.encode(),
}


def short_names(enum: EnumDescriptor) -> Mapping[str, int]:
    """The values of an enum without the prefix that its name gives them, the unspecified one left out."""
    prefix = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", enum.name).upper() + "_"
    return {value.name.removeprefix(prefix): value.number for value in enum.values if value.number != 0}


def _list(text: str) -> list[str]:
    if not text.lstrip().startswith("["):
        return [item.strip() for item in text.split(",")] if text else []
    try:
        items = _json(text)
    except ValueError as error:
        raise BadText(f"{text!r} is neither a list like a,b nor a JSON array: {error}") from None
    return [item if isinstance(item, str) else json.dumps(item) for item in items]


def _set_map(message: Message, field: FieldDescriptor, text: str) -> None:
    if text.lstrip().startswith("{"):
        _set_message(message, field, text)
        return
    pairs = [item.partition("=") for item in _list(text)]
    if not all(separator for _, separator, _ in pairs):
        raise BadText(f"{text!r} is not a map: write key=value,key=value or a JSON object")
    message.ClearField(field.name)
    for key, _, value in pairs:
        set_map_entry(message, field, key.strip(), value)


def set_map_entry(message: Message, field: FieldDescriptor, key_text: str, text: str) -> None:
    """Sets one entry of a map of scalars. BadText when key or value do not fit."""
    assert field.message_type is not None
    entry = field.message_type.fields_by_name
    if entry["value"].message_type is not None:
        raise BadText("entries of this map are messages: write the whole map as a JSON object")
    getattr(message, field.name)[scalar(entry["key"], key_text)] = scalar(entry["value"], text)


def _set_message(message: Message, field: FieldDescriptor, text: str) -> None:
    message.ClearField(field.name)
    try:
        value = _json(text)
    except ValueError:
        assert field.message_type is not None
        raise BadText(
            f"{text!r} is no JSON; {field.message_type.name} is set by its fields, as {field.name}.…"
        ) from None
    try:
        json_format.ParseDict({field.name: value}, message)
    except json_format.ParseError as error:
        raise BadText(f"does not fit: {error}") from None


def _json(text: str) -> Any:
    """ValueError when the text is no JSON, is nested too deep, or holds half of a character, which no message takes."""
    try:
        value = json.loads(text)
        json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError("nested too deep") from None
    return value

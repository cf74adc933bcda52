"""JSON Schema of a message's JSON form, from its descriptor."""

import json
from functools import cache
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor

_DURATION = "google.protobuf.Duration"
_TYPES: dict[int, dict[str, Any]] = {
    FieldDescriptor.TYPE_STRING: {"type": "string"},
    FieldDescriptor.TYPE_BOOL: {"type": "boolean"},
    FieldDescriptor.TYPE_DOUBLE: {"type": "number"},
    FieldDescriptor.TYPE_INT32: {"type": "integer"},
    FieldDescriptor.TYPE_INT64: {"type": ["integer", "string"]},
}


@cache
def options_schema(descriptor: Descriptor) -> str:
    """The schema, with a definition for each message that it uses."""
    definitions: dict[str, Any] = {}
    root = _reference(descriptor, definitions)
    return json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema", **root, "$defs": definitions})


def _reference(descriptor: Descriptor, definitions: dict[str, Any]) -> dict[str, Any]:
    if descriptor.full_name == _DURATION:
        return {"type": "string", "pattern": r"^[0-9]+(\.[0-9]{1,9})?s$"}
    if descriptor.name not in definitions:
        definitions[descriptor.name] = {}  # holds the place, as messages can hold themselves
        properties = {field.json_name: _field(field, definitions) for field in descriptor.fields}
        definitions[descriptor.name] = {"type": "object", "properties": properties, "additionalProperties": False}
    return {"$ref": f"#/$defs/{descriptor.name}"}


def _field(field: FieldDescriptor, definitions: dict[str, Any]) -> dict[str, Any]:
    if field.message_type is not None:
        schema = _reference(field.message_type, definitions)
    elif field.enum_type is not None:
        schema = {"enum": [value.name for value in field.enum_type.values]}
    else:
        schema = dict(_TYPES[field.type])
    return {"type": "array", "items": schema} if field.is_repeated else schema

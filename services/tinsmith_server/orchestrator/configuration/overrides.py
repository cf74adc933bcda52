"""Overrides: {"learning_rate": "1e-5", "dataset.hub.id": "openai/gsm8k"} put over a configuration message."""

from collections.abc import Mapping
from difflib import get_close_matches

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from tinsmith_server.orchestrator.configuration.text_values import BadText, descriptor_of, set_from_text, set_map_entry

Violation = tuple[str, str]
"""(key, what is wrong with it)"""


def apply_overrides(config: Message, overrides: Mapping[str, str]) -> list[Violation]:
    """Sets what the keys name; returns what is wrong with each key that could not be followed.

    A shorter key is set before the longer ones below it. Two members of one oneof are a contradiction, since the
    overrides have no order.
    """
    violations: list[Violation] = []
    chosen: dict[tuple[str, str], tuple[str, str]] = {}
    for key in sorted(overrides, key=lambda key: (key.count("."), key)):
        try:
            _set(config, key.split("."), overrides[key])
            _check_choices(descriptor_of(config), key, chosen)
        except BadText as error:
            violations.append((key, str(error)))
    return violations


def _set(message: Message, path: list[str], text: str) -> None:
    field = _field(descriptor_of(message), path[0])
    rest = path[1:]
    if not rest:
        set_from_text(message, field, text)
    elif _is_map(field):
        set_map_entry(message, field, ".".join(rest), text)
    elif field.message_type is None:
        raise BadText(f"{field.name} has no fields of its own")
    elif field.is_repeated:
        raise BadText(f"{field.name} is a list: give all of it, as a JSON array")
    else:
        inner = getattr(message, field.name)
        inner.SetInParent()
        _set(inner, rest, text)


def _field(descriptor: Descriptor, name: str) -> FieldDescriptor:
    field = descriptor.fields_by_name.get(name)
    if field is None:
        raise BadText(f"{descriptor.name} has no field {name!r}{_suggestion(name, list(descriptor.fields_by_name))}")
    return field


def _suggestion(name: str, names: list[str]) -> str:
    by_initials = [other for other in names if "".join(word[0] for word in other.split("_")) == name.lower()]
    by_word = [other for other in names if name.lower() in other.split("_")]
    near = by_initials or get_close_matches(name.lower(), names, n=1) or by_word
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else f"; there are {', '.join(names)}"


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and bool(field.message_type.GetOptions().map_entry)


def _check_choices(descriptor: Descriptor, key: str, chosen: dict[tuple[str, str], tuple[str, str]]) -> None:
    """BadText when an earlier key chose another member of a oneof that this key goes through."""
    path: list[str] = []
    kind: Descriptor | None = descriptor
    for name in key.split("."):
        if kind is None or name not in kind.fields_by_name:
            return
        field = kind.fields_by_name[name]
        oneof = field.containing_oneof
        if oneof is not None and len(oneof.fields) > 1:
            place = (".".join(path), oneof.name)
            member, other_key = chosen.setdefault(place, (name, key))
            if member != name:
                raise BadText(f"contradicts {other_key!r}: only one {oneof.name} can be set")
        path.append(name)
        kind = field.message_type

"""Defaults: the `default_value` option of each field that is absent."""

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from tinsmith.types.v1 import options_pb2
from tinsmith_server.orchestrator.configuration.text_values import descriptor_of, set_from_text


def default_text(field: FieldDescriptor) -> str | None:
    """The field's default as an override would write it; None when it has none."""
    options = field.GetOptions()
    if not options.HasExtension(options_pb2.default_value):
        return None
    text: str = options.Extensions[options_pb2.default_value]
    return text


def fill_defaults(config: Message) -> None:
    """Sets the fields that are absent and have a default."""
    for field in descriptor_of(config).fields:
        text = default_text(field)
        if text is not None and field.has_presence and not config.HasField(field.name):
            set_from_text(config, field, text)

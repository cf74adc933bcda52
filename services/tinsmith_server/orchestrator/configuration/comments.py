"""The comments of the contract, from the descriptors that ship with the server."""

from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files

from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto, FileDescriptorSet

_MESSAGES, _FIELDS = 4, 2
"""Numbers of `message_type` in FileDescriptorProto and of `field` in DescriptorProto: parts of a location's path."""


@cache
def comments() -> Mapping[str, str]:
    """Full name of a message or field of the orchestrator's contract -> its comment on one line."""
    contract = FileDescriptorSet.FromString((files("tinsmith_server.serving") / "contract.binpb").read_bytes())
    found: dict[str, str] = {}
    for file in contract.file:
        if file.package == "tinsmith.orchestrator.v1":
            locations = {tuple(place.path): place.leading_comments for place in file.source_code_info.location}
            found |= {name: " ".join(locations.get(path, "").split()) for name, path in _elements(file)}
    return found


def _elements(file: FileDescriptorProto) -> Iterator[tuple[str, tuple[int, ...]]]:
    for number, message in enumerate(file.message_type):
        name = f"{file.package}.{message.name}"
        yield name, (_MESSAGES, number)
        yield from _fields(name, message, number)


def _fields(name: str, message: DescriptorProto, number: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    for index, field in enumerate(message.field):
        yield f"{name}.{field.name}", (_MESSAGES, number, _FIELDS, index)

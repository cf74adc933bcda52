"""The rooms by name. A room's code is imported when it is opened: the grader's process never loads torch."""

from collections.abc import Mapping
from importlib import import_module

from tinsmith_server.serving.room import RoomDefinition

ROOMS: Mapping[str, str] = {
    "dataset": "tinsmith_server.dataset",
    "trainer": "tinsmith_server.trainer",
    "sampler": "tinsmith_server.sampler",
    "grader": "tinsmith_server.grader",
    "environment": "tinsmith_server.environment",
    "orchestrator": "tinsmith_server.orchestrator",
    "gateway": "tinsmith_server.gateway",
}
"""Name -> module whose ROOM it is, in the order in which a suite starts them."""


class UnknownRoom(Exception):
    """There is no such room, or it is not installed; the message says what there is or what to install."""


def find_room(name: str, rooms: Mapping[str, str] = ROOMS) -> RoomDefinition:
    """The definition of a room."""
    if name not in rooms:
        raise UnknownRoom(f"no service {name!r}; there are {', '.join(rooms)}")
    try:
        definition: RoomDefinition = import_module(rooms[name]).ROOM
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("tinsmith"):
            raise
        raise UnknownRoom(
            f"{name} needs {error.name}, which is not installed: pip install 'tinsmith-server[{name}]'"
        ) from None
    return definition

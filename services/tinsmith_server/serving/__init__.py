"""The serving kit: what every process shares."""

from tinsmith_server.serving import errors
from tinsmith_server.serving.calls import checks_request, time_left
from tinsmith_server.serving.launcher import die_with_parent, launch_environment, relaunch_if_needed
from tinsmith_server.serving.process import CannotServe, RoomServer, run_room
from tinsmith_server.serving.registry import ROOMS, UnknownRoom, find_room
from tinsmith_server.serving.room import Room, RoomDefinition
from tinsmith_server.serving.settings import (
    BadSettings,
    CommaSeparated,
    ExpandedPath,
    LoadedSettings,
    RoomSettings,
    load_settings,
)
from tinsmith_server.serving.telemetry import outgoing_metadata, span, trace_id
from tinsmith_server.serving.validation import validate

__all__ = [
    "ROOMS",
    "BadSettings",
    "CannotServe",
    "CommaSeparated",
    "ExpandedPath",
    "LoadedSettings",
    "Room",
    "RoomDefinition",
    "RoomServer",
    "RoomSettings",
    "UnknownRoom",
    "checks_request",
    "die_with_parent",
    "errors",
    "find_room",
    "launch_environment",
    "load_settings",
    "outgoing_metadata",
    "relaunch_if_needed",
    "run_room",
    "span",
    "time_left",
    "trace_id",
    "validate",
]

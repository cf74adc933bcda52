"""The serving kit: what every process shares."""

from tinsmith_server.serving import errors
from tinsmith_server.serving.calls import checks_request, time_left
from tinsmith_server.serving.credentials import call_for, outgoing_metadata
from tinsmith_server.serving.fair_queue import FairQueue
from tinsmith_server.serving.gate import charge_tokens
from tinsmith_server.serving.launcher import die_with_parent, launch_environment, relaunch_if_needed
from tinsmith_server.serving.process import CannotServe, RoomServer, refuse_exposure, run_room
from tinsmith_server.serving.queue_watch import QueueStatus, QueueWatch, queue_status_message
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
from tinsmith_server.serving.telemetry import span, trace_headers, trace_id
from tinsmith_server.serving.tenants import Tenant, current_tenant, visible_owner
from tinsmith_server.serving.validation import validate

__all__ = [
    "ROOMS",
    "BadSettings",
    "CannotServe",
    "CommaSeparated",
    "ExpandedPath",
    "FairQueue",
    "LoadedSettings",
    "QueueStatus",
    "QueueWatch",
    "Room",
    "RoomDefinition",
    "RoomServer",
    "RoomSettings",
    "Tenant",
    "UnknownRoom",
    "call_for",
    "charge_tokens",
    "checks_request",
    "current_tenant",
    "die_with_parent",
    "errors",
    "find_room",
    "launch_environment",
    "load_settings",
    "outgoing_metadata",
    "queue_status_message",
    "refuse_exposure",
    "relaunch_if_needed",
    "run_room",
    "span",
    "time_left",
    "trace_headers",
    "trace_id",
    "validate",
    "visible_owner",
]

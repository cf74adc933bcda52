"""The orchestrator: drives recipes over the other services, and remembers what happened."""

from tinsmith_server.orchestrator.room import ROOM

__all__ = ["ROOM"]

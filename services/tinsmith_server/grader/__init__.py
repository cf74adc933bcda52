"""The grader: rewards for answers, safe with hostile text."""

from typing import Any

__all__ = ["ROOM"]


def __getattr__(name: str) -> Any:
    """ROOM, imported when it is asked for: the worker processes import this package and must not load gRPC."""
    if name != "ROOM":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from tinsmith_server.grader.room import ROOM

    return ROOM

"""Environments: episodes of problems and games, stepped many at a time."""

from tinsmith_server.environment.room import ROOM

__all__ = ["ROOM"]

"""The gateway: every service over HTTP, for browsers, curl and clients without gRPC; and over one gRPC address."""

from tinsmith_server.gateway.room import ROOM

__all__ = ["ROOM"]

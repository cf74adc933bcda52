"""The dataset room: data to rows and batches, conversations to tokens and back."""

from tinsmith_server.dataset.room import ROOM

__all__ = ["ROOM"]

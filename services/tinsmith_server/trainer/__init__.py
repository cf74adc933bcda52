"""The trainer: low-rank adapters of shared base models, their losses, optimizers and checkpoints."""

from tinsmith_server.trainer.room import ROOM

__all__ = ["ROOM"]

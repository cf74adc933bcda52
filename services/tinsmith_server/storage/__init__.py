"""Checkpoints in storage: named, immutable, published whole or not at all, verified when read."""

from tinsmith_server.storage.manifest import CheckpointDraft, CheckpointFile, LoraShape, Manifest
from tinsmith_server.storage.store import CheckpointStore
from tinsmith_server.storage.uri import SAMPLER, TRAINING, CheckpointUri

__all__ = [
    "SAMPLER",
    "TRAINING",
    "CheckpointDraft",
    "CheckpointFile",
    "CheckpointStore",
    "CheckpointUri",
    "LoraShape",
    "Manifest",
]

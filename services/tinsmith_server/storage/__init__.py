"""Checkpoints in storage: named, immutable, published whole or not at all, verified when read."""

from tinsmith_server.storage.latest import Resolved, Skipped, resolve
from tinsmith_server.storage.lifetime import Clock
from tinsmith_server.storage.manifest import CheckpointDraft, CheckpointFile, LoraShape, Manifest
from tinsmith_server.storage.reading import PIECE_BYTES
from tinsmith_server.storage.staging import StagedFile, Staging
from tinsmith_server.storage.store import CheckpointStore
from tinsmith_server.storage.uri import SAMPLER, TRAINING, CheckpointUri

__all__ = [
    "PIECE_BYTES",
    "SAMPLER",
    "TRAINING",
    "CheckpointDraft",
    "CheckpointFile",
    "CheckpointStore",
    "CheckpointUri",
    "Clock",
    "LoraShape",
    "Manifest",
    "Resolved",
    "Skipped",
    "StagedFile",
    "Staging",
    "resolve",
]

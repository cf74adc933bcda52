"""What the orchestrator remembers: runs, their events and checkpoints, who drives them, models, services."""

from tinsmith_server.orchestrator.store.database import Database
from tinsmith_server.orchestrator.store.leases import LeaseLost, Leases
from tinsmith_server.orchestrator.store.registry import Registry
from tinsmith_server.orchestrator.store.run_values import ENDED, NewRun, RunChange, RunFilter, SavedCheckpoint
from tinsmith_server.orchestrator.store.runs import Runs

__all__ = [
    "ENDED",
    "Database",
    "LeaseLost",
    "Leases",
    "NewRun",
    "Registry",
    "RunChange",
    "RunFilter",
    "Runs",
    "SavedCheckpoint",
]

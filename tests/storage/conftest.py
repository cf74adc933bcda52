"""Fixtures of the storage tests."""

from pathlib import Path

import pytest

from tinsmith_server.storage import CheckpointStore


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    """An empty store."""
    store = CheckpointStore(tmp_path / "checkpoints")
    store.prepare()
    return store

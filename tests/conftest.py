"""Fixtures of every test."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(scope="session")
def model_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen3 checkpoint with random weights, 32 wide, one token a byte."""
    from tests.support import write_random_model

    return write_random_model(tmp_path_factory.mktemp("models") / "random")

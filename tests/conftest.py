"""Fixtures of every test."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.suite import RunningSuite, running_suite

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(scope="session")
def model_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen3 checkpoint with random weights, 32 wide, one token a byte."""
    from tests.support import write_random_model

    return write_random_model(tmp_path_factory.mktemp("models") / "random")


@pytest.fixture(scope="session")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSuite]:
    """Seven real processes with the embedded model, started once for all tests that ask for them."""
    with running_suite(tmp_path_factory.mktemp("suite")) as suite:
        yield suite

"""Embedded models after a few steps: everything about them but what they know."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tinsmith_server.models import EMBEDDED_MODELS, EmbeddedModel
from tinsmith_server.models.embedded import embedded_directory


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def brief_model() -> EmbeddedModel:
    """tinsmith-tiny with a warm-up of three steps."""
    return replace(EMBEDDED_MODELS["tinsmith-tiny"], warm_up_steps=3)


@pytest.fixture(scope="session")
def brief_directory(brief_model: EmbeddedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its checkpoint directory."""
    return embedded_directory(brief_model, tmp_path_factory.mktemp("home"))

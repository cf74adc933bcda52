"""On what a table is measured: a model, a device, and how long its sequences are."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from tests.benchmarks import model as embedded
from tests.benchmarks.random_model import LARGE, SMALL, ModelSize, write_model
from tests.benchmarks.service import Service, serving
from tinsmith_server.models import load_causal_lm

RANDOM = "random"
"""The name under which a service has the random model; the embedded one has its own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Setup:
    """One process of ours and one peer, with the same model, device, number type and number of threads: one."""

    label: str
    """Stands before the figures; empty for the ordinary table."""
    folder: Path
    """For everything that the benchmark writes."""
    directory: Path
    """Of the random model."""
    size: ModelSize
    device: str
    scale: int
    """Factor of all lengths: an accelerator that is handed 2,000 tokens measures its own launches."""

    @property
    def dtype(self) -> str:
        return str(self.size.dtype).removeprefix("torch.")

    def named(self, figure: str) -> str:
        return f"{self.label}: {figure}" if self.label else figure

    @contextmanager
    def service(self, room: str, **settings: object) -> Iterator[Service]:
        """The room with both models."""
        models = f"{RANDOM}={self.directory},{embedded.NAME}={embedded.embedded_directory()}"
        shared = {"base_models": models, "device": self.device, "dtype": self.dtype, "torch_threads": 1}
        with serving(room, self.folder / "home", **shared, **settings) as service:
            yield service

    def load(self, name: str = RANDOM) -> Any:
        """A copy of the model for the peer, on one thread."""
        torch.set_num_threads(1)
        directory = self.directory if name == RANDOM else embedded.embedded_directory()
        return load_causal_lm(directory, device=self.device, dtype=self.dtype)

    def vocabulary(self, name: str = RANDOM) -> int:
        """Token ids below this may be used."""
        return self.size.vocabulary if name == RANDOM else embedded.VOCABULARY


@contextmanager
def processor() -> Iterator[Setup]:
    """The ordinary table: hidden 128, 4 layers, vocabulary 2048, float32, on one core."""
    with _setup(SMALL, label="", device="cpu", scale=1) as setup:
        yield setup


@contextmanager
def accelerator() -> Iterator[Setup]:
    """The same table on a GPU: the shape of Qwen3-0.6B in bfloat16."""
    with _setup(LARGE, label="GPU, 0.6B bf16", device="cuda:0", scale=4) as setup:
        yield setup


@contextmanager
def _setup(size: ModelSize, *, label: str, device: str, scale: int) -> Iterator[Setup]:
    with TemporaryDirectory() as name:
        folder = Path(name)
        directory = write_model(folder / "model", size)
        yield Setup(label=label, folder=folder, directory=directory, size=size, device=device, scale=scale)

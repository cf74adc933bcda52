"""Where a benchmark ran, and what else the machine was doing."""

import os
import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import psutil
import torch

_PACKAGES = ("torch", "transformers", "peft", "grpcio")


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """Facts that a figure depends on. One minute's load average above 1 before the run means that it had company."""

    processor: str
    cores: int
    memory_gb: float
    accelerator: str
    """Name of the GPU; empty where there is none."""
    versions: str
    date: str
    load_before: float
    load_after: float
    """Includes the benchmark itself: about 1 for most of a run."""

    def __str__(self) -> str:
        gpu = f", {self.accelerator}" if self.accelerator else ", no GPU"
        return (
            f"{self.processor}, {self.cores} cores, {self.memory_gb:.0f} GB{gpu}; {self.versions}; {self.date}; "
            f"load average {self.load_before:.2f} before, {self.load_after:.2f} after"
        )


def load_average() -> float:
    """Of the last minute."""
    return os.getloadavg()[0]


def machine(load_before: float) -> Machine:
    """This machine, after a run that began at this load."""
    return Machine(
        processor=_processor(),
        cores=os.cpu_count() or 1,
        memory_gb=psutil.virtual_memory().total / 2**30,
        accelerator=torch.cuda.get_device_name() if torch.cuda.is_available() else "",
        versions=", ".join([f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in _PACKAGES)]),
        date=datetime.now(UTC).strftime("%Y-%m-%d"),
        load_before=load_before,
        load_after=load_average(),
    )


def _processor() -> str:
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text().splitlines() if facts.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()

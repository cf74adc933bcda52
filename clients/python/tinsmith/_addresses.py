"""Where the services of a suite listen."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Addresses:
    """`host:port`, `unix:path` or any other gRPC target of each service."""

    trainer: str = "127.0.0.1:50051"
    sampler: str = "127.0.0.1:50052"
    dataset: str = "127.0.0.1:50053"
    """Serves DatasetService and RendererService."""
    grader: str = "127.0.0.1:50054"
    environment: str = "127.0.0.1:50055"
    orchestrator: str = "127.0.0.1:50056"
    """Serves OrchestratorService and NumericsService."""

    @classmethod
    def find(cls, home: str | Path | None = None, **given: str | None) -> "Addresses":
        """The addresses given, else those in the environment, else those of the suite in `home`, else the defaults.

        The environment names them TINSMITH_TRAINER_ADDRESS and so on. `tinsmith up` writes `<home>/suite.json`; without
        `home` the variable TINSMITH_HOME, then `~/.tinsmith`, say where to look. FileNotFoundError when `home` was
        given and no suite ever ran there; ValueError when its suite.json is damaged.
        """
        values = _of_home(home) | _of_environment() | {name: value for name, value in given.items() if value}
        unknown = sorted(values.keys() - {field.name for field in fields(cls)})
        if unknown:
            raise TypeError(f"no such service: {', '.join(unknown)}")
        return cls(**values)


def _of_environment() -> dict[str, str]:
    names = {field.name: f"TINSMITH_{field.name.upper()}_ADDRESS" for field in fields(Addresses)}
    return {name: os.environ[variable] for name, variable in names.items() if os.environ.get(variable)}


def _of_home(home: str | Path | None) -> dict[str, str]:
    folder = Path(home or os.environ.get("TINSMITH_HOME") or "~/.tinsmith").expanduser()
    try:
        state: Mapping[str, Mapping[str, Mapping[str, str]]] = json.loads((folder / "suite.json").read_text())
    except FileNotFoundError:
        if home is None:
            return {}
        raise FileNotFoundError(f"no suite has run in {folder}: start one with `tinsmith up --home {folder}`") from None
    except ValueError:
        raise _damaged(folder) from None
    known = {field.name for field in fields(Addresses)}
    try:
        return {name: service["address"] for name, service in state["services"].items() if name in known}
    except (AttributeError, KeyError, TypeError):
        raise _damaged(folder) from None


def _damaged(folder: Path) -> ValueError:
    return ValueError(f"{folder / 'suite.json'} is damaged: start the suite anew with `tinsmith up --home {folder}`")

"""Base models that this process has itself, for what a backend at a distance can't do."""

from pathlib import Path
from typing import Protocol

from tinsmith_server.serving.errors import FailedPrecondition
from tinsmith_server.trainer.local.causal import CausalModel


class LocalBases(Protocol):
    """The base models of the `local` backend."""

    def base(self, name: str) -> CausalModel:
        """A base model. NotFound with reason BASE_MODEL_NOT_FOUND."""
        ...

    def directory(self, name: str) -> Path:
        """Where its files are. Blocks; NotFound with reason BASE_MODEL_NOT_FOUND."""
        ...


def needed(bases: LocalBases | None) -> LocalBases:
    """The base models. FailedPrecondition with reason BACKEND_UNSUPPORTED when there are none in this process."""
    if bases is None:
        raise FailedPrecondition(
            "this trainer's backend keeps no base models here; use a trainer with backend local",
            reason="BACKEND_UNSUPPORTED",
        )
    return bases

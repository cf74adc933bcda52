"""Checkpoints whose weights stay at the Tinker service.

In our storage such a checkpoint is an ordinary one, with one file in the place of the weights: `tinker.json`, which
holds the service's name for them. One checkpoint of ours is one of theirs, and never another: each save takes a name
that was not used before. Deleting ours leaves theirs, until the life time it was saved with is over.
"""

import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import timedelta

from tinsmith_server.serving.errors import DataLoss, FailedPrecondition
from tinsmith_server.storage import LoraShape

FILE = "tinker.json"
_PATH = re.compile(r"tinker://[^/\s]+/(weights|sampler_weights)/[^/\s]+")
_LONGEST_S = 10 * 365 * 24 * 60 * 60
_SHORTEST_S = 60 * 60
"""Life times that the service takes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Adapted:
    """What an adapter at the service changes; all that may differ between two of one base model."""

    rank: int
    attention: bool
    mlp: bool
    unembedding: bool

    @classmethod
    def of(cls, shape: LoraShape) -> "Adapted":
        """Of an adapter's configuration."""
        return cls(
            rank=shape.rank, attention=shape.train_attention, mlp=shape.train_mlp, unembedding=shape.train_unembedding
        )

    def __str__(self) -> str:
        kinds = [kind for kind in ("attention", "mlp", "unembedding") if getattr(self, kind)]
        return f"rank {self.rank} on {', '.join(kinds)}"


@dataclass(frozen=True, kw_only=True, slots=True)
class RemoteCheckpoint:
    """Weights at the service."""

    path: str
    """The service's name: tinker://{run}/{weights|sampler_weights}/{name}."""
    step: int
    """Optimizer steps applied when they were saved."""
    adapted: Adapted

    @property
    def has_optimizer(self) -> bool:
        """Whether the service kept the optimizer's memory with them."""
        return "/weights/" in self.path

    def files(self) -> dict[str, bytes]:
        """What our storage keeps."""
        return {FILE: json.dumps(asdict(self), indent=1).encode()}

    @classmethod
    def of(cls, files: Mapping[str, bytes]) -> "RemoteCheckpoint":
        """Reads what storage has. FailedPrecondition with reason CHECKPOINT_MISMATCH when the weights are not at a
        service, DataLoss with reason CHECKPOINT_CORRUPT when the file is not what its name says."""
        if FILE not in files:
            raise FailedPrecondition(
                "the checkpoint's weights are in this storage, not at the Tinker service; use it with backend local",
                reason="CHECKPOINT_MISMATCH",
                metadata={"has": ", ".join(sorted(files))},
            )
        try:
            fields = json.loads(files[FILE])
            adapted = Adapted(**fields["adapted"])
            found = cls(path=fields["path"], step=int(fields["step"]), adapted=adapted)
            if _PATH.fullmatch(found.path):
                return found
        except (ValueError, KeyError, TypeError):
            pass
        raise DataLoss(f"{FILE} names no weights", reason="CHECKPOINT_CORRUPT", metadata={"file": FILE})


def fresh_name(step: int) -> str:
    """A name for weights that was not used before."""
    return f"step-{step:06d}-{secrets.token_hex(8)}"


def ttl_seconds(lifetime: timedelta | None) -> int | None:
    """A life time as the service takes it: at least an hour, at most ten years; None keeps for good."""
    if lifetime is None:
        return None
    return min(max(int(lifetime.total_seconds()), _SHORTEST_S), _LONGEST_S)

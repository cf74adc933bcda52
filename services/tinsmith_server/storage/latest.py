"""The newest checkpoint that is whole, for whoever asks for "latest"."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from tinsmith_server.serving.errors import DataLoss, NotFound
from tinsmith_server.storage.errors import not_found
from tinsmith_server.storage.store import CheckpointStore
from tinsmith_server.storage.uri import CheckpointUri

T = TypeVar("T")
_GONE = "CHECKPOINT_NOT_FOUND"


@dataclass(frozen=True, kw_only=True, slots=True)
class Skipped:
    """A damaged checkpoint that was gone past."""

    uri: CheckpointUri
    reason: str
    message: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Resolved(Generic[T]):
    """What was made of a checkpoint, and which newer ones were damaged."""

    value: T
    skipped: tuple[Skipped, ...] = ()
    """Newest first; empty unless "latest" was asked for."""


def resolve(store: CheckpointStore, uri: CheckpointUri, load: Callable[[CheckpointUri], T]) -> Resolved[T]:
    """What `load` makes of the checkpoint; of the newest that it can make something of, when "latest" is asked for.

    Blocks. A checkpoint is damaged when `load` raises DataLoss. Raises what `load` raises; with "latest" DataLoss with
    reason NO_GOOD_CHECKPOINT when all are damaged, NotFound with reason CHECKPOINT_NOT_FOUND when there is none.
    """
    if not uri.is_latest:
        return Resolved(value=_loaded(uri, load))
    skipped: list[Skipped] = []
    for candidate in store.newest_first(uri.model_id, uri.kind):
        try:
            return Resolved(value=_loaded(candidate, load), skipped=tuple(skipped))
        except DataLoss as error:
            skipped.append(Skipped(uri=candidate, reason=error.reason, message=error.message))
        except NotFound as error:
            if error.reason != _GONE:  # that is: it was not deleted since it was listed
                raise
    if not skipped:
        raise not_found(uri)
    said = "; ".join(item.message for item in skipped)
    raise DataLoss(
        f"none of {len(skipped)} checkpoints behind {uri} can be used: {said}",
        reason="NO_GOOD_CHECKPOINT",
        metadata={"uri": str(uri), "damaged": ",".join(str(item.uri) for item in skipped)},
    )


def _loaded(uri: CheckpointUri, load: Callable[[CheckpointUri], T]) -> T:
    """What `load` makes of it; once more when it has gone, for it may have been replaced while it was read."""
    try:
        return load(uri)
    except NotFound as error:
        if error.reason != _GONE:
            raise
        return load(uri)

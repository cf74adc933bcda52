"""The errors of stored checkpoints."""

from tinsmith_server.serving.errors import AlreadyExists, DataLoss, InvalidArgument, NotFound
from tinsmith_server.storage.uri import LATEST, CheckpointUri


def exists(uri: CheckpointUri) -> AlreadyExists:
    """The name is taken."""
    return AlreadyExists(
        f"there is a checkpoint {uri}; choose another name or overwrite it",
        reason="CHECKPOINT_EXISTS",
        metadata={"uri": str(uri)},
    )


def not_found(uri: CheckpointUri) -> NotFound:
    """Nothing lies there."""
    return NotFound(
        f"there is no checkpoint {uri}; it was never saved, or deleted since",
        reason="CHECKPOINT_NOT_FOUND",
        metadata={"uri": str(uri)},
    )


def corrupt(uri: CheckpointUri, file_name: str, what: str) -> DataLoss:
    """What lies there is not what was written."""
    return DataLoss(
        f"{uri} is damaged: {file_name} {what}; use an older checkpoint",
        reason="CHECKPOINT_CORRUPT",
        metadata={"uri": str(uri), "file": file_name},
    )


def reserved() -> InvalidArgument:
    """A checkpoint can't be named like what stands for the newest one."""
    return InvalidArgument(
        f"no checkpoint can be named {LATEST!r}, which stands for the newest one that is whole; choose another name",
        reason="RESERVED_NAME",
        metadata={"name": LATEST},
    )

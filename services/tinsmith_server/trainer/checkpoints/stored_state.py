"""Checkpoints as training takes them from storage: verified, finite, and with what is needed."""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tinsmith_server.serving.errors import DataLoss
from tinsmith_server.storage import CheckpointStore, CheckpointUri, Manifest
from tinsmith_server.storage.errors import corrupt, not_found
from tinsmith_server.trainer.checkpoints.adapter_files import OPTIMIZER, WEIGHTS, mismatch

_TENSORS = ".safetensors"


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredState:
    """A checkpoint and the files of it that were asked for."""

    manifest: Manifest
    files: dict[str, bytes]


def read_state(store: CheckpointStore, uri: CheckpointUri, *, with_optimizer: bool) -> StoredState:
    """A checkpoint's manifest and verified files; the optimizer's only when it is asked for. Blocks.

    Raises FailedPrecondition with reason CHECKPOINT_MISMATCH when it has no optimizer state that is asked for; DataLoss
    with reason CHECKPOINT_CORRUPT or WEIGHTS_NOT_FINITE; NotFound with reason CHECKPOINT_NOT_FOUND.
    """
    manifest = store.manifest(uri)
    listed = {file.name for file in manifest.files}
    if with_optimizer and WEIGHTS in listed and OPTIMIZER not in listed:
        raise mismatch("no optimizer state; load it without, or take a training checkpoint")
    files = {}
    for name in sorted(listed if with_optimizer else listed - {OPTIMIZER}):
        files[name] = store.read(manifest, name)
        check_finite(store.path(manifest, name), uri)
    return StoredState(manifest=manifest, files=files)


def verify(store: CheckpointStore, uri: CheckpointUri) -> Manifest:
    """The manifest of a checkpoint of which every byte was read. Blocks; errors as `read_state`."""
    manifest = store.manifest(uri)
    for file in manifest.files:
        for _ in store.pieces(manifest, file.name):
            pass
        check_finite(store.path(manifest, file.name), uri)
    return manifest


def check_finite(path: Path, uri: CheckpointUri) -> None:
    """Looks at every number of a file of tensors, one tensor in memory at a time; other files pass. Blocks.

    Raises DataLoss with reason WEIGHTS_NOT_FINITE, with reason CHECKPOINT_CORRUPT when the file is not what it should
    be; NotFound with reason CHECKPOINT_NOT_FOUND when it has gone, because the checkpoint was deleted or replaced.
    """
    if path.suffix != _TENSORS:
        return
    try:
        with safe_open(path, framework="pt") as tensors:
            names = tensors.keys()
            bad = next((name for name in names if not _is_finite(tensors.get_tensor(name))), None)
    except FileNotFoundError:  # it was there a moment ago
        raise not_found(uri) from None
    except OSError as error:
        raise corrupt(uri, path.name, f"can't be read: {error.strerror}") from error
    except SafetensorError as error:
        raise corrupt(uri, path.name, f"can't be read: {error}") from error
    if bad is not None:
        raise DataLoss(
            f"{uri} holds numbers that are not finite: {bad} in {path.name}; use an older checkpoint",
            reason="WEIGHTS_NOT_FINITE",
            metadata={"uri": str(uri), "file": path.name, "tensor": bad},
        )


def _is_finite(tensor: Tensor) -> bool:
    """As float32, which is what they are loaded as."""
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor.float()).all())

"""Files of checkpoints, verified while they are read."""

import hashlib
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from tinsmith_server.storage.errors import corrupt, not_found
from tinsmith_server.storage.manifest import CheckpointFile, Manifest

PIECE_BYTES = 1 << 20
"""Files are read in pieces of this size."""


def pieces(path: Path, manifest: Manifest, file_name: str) -> Generator[bytes, None, None]:
    """The content of the file of this name, which lies at `path`. Errors as `CheckpointStore.pieces`."""
    wanted = _listed(manifest, file_name)
    checksum, size = hashlib.sha256(), 0
    with _open(path, manifest) as file:
        while piece := file.read(PIECE_BYTES):
            checksum.update(piece)
            size += len(piece)
            yield piece
    if size != wanted.size_bytes:
        raise corrupt(manifest.uri, file_name, f"has {size} bytes, not {wanted.size_bytes}")
    if checksum.hexdigest() != wanted.sha256:
        raise corrupt(manifest.uri, file_name, "is not what was written (its SHA-256 differs)")


@contextmanager
def _open(path: Path, manifest: Manifest) -> Iterator[BinaryIO]:
    try:
        with path.open("rb") as file:
            yield file
    except FileNotFoundError:
        if not path.parent.exists():
            raise not_found(manifest.uri) from None
        raise corrupt(manifest.uri, path.name, "is missing") from None


def _listed(manifest: Manifest, file_name: str) -> CheckpointFile:
    listed = {file.name: file for file in manifest.files}
    if file_name not in listed:
        raise corrupt(manifest.uri, file_name, f"is none of its files: {', '.join(listed)}")
    return listed[file_name]

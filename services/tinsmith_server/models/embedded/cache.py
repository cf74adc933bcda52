"""The folder where embedded models are kept: built once, whole or not at all, whoever asks first."""

import errno
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from filelock import FileLock

from tinsmith_server.models.embedded.catalogue import EmbeddedModel
from tinsmith_server.models.storing import storing

Progress = Callable[[int, int], None]
"""Called with (steps done, steps in all)."""

_ROOM_BYTES = 16 * 1024 * 1024
"""More than the files of any embedded model."""


def embedded_directory(model: EmbeddedModel, home: Path, progress: Progress | None = None) -> Path:
    """The checkpoint directory of an embedded model, <home>/models/<name>-<recipe>; built if it is not there. Blocks.

    Of several threads and processes that ask, one builds and the others wait; a builder that is killed leaves the lock
    free and nothing that could be taken for a model. A full or read-only disk is told as in `storing`.
    """
    folder = home / "models"
    directory = folder / f"{model.name}-{model.recipe_hash}"
    with storing(model.name, folder, setting="home"):
        if directory.is_dir():
            return directory
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{directory}.lock"):
            if not directory.is_dir():
                _build_into(directory, model, progress)
    return directory


def _build_into(directory: Path, model: EmbeddedModel, progress: Progress | None) -> None:
    """Builds beside `directory`, then renames; only the lock's holder may call this."""
    from tinsmith_server.models.embedded.build import build  # imports torch, which only a builder needs

    if shutil.disk_usage(directory.parent).free < _ROOM_BYTES:  # before a minute's work rather than after it
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    partial = directory.with_name(f"{directory.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        _write(partial, build(model, progress))
        partial.rename(directory)
        _sync(directory.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _write(directory: Path, files: Mapping[str, bytes]) -> None:
    """Writes the files through to the disk, so that the rename can't overtake them in a power failure."""
    for name, content in files.items():
        with (directory / name).open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    _sync(directory)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

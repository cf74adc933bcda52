"""File operations that a power failure, a kill or a full disk can't leave half done."""

import errno
import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tinsmith_server.serving.errors import FailedPrecondition, ResourceExhausted

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_REFUSED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR})


@contextmanager
def storage_errors() -> Iterator[None]:
    """Turns what the file system refuses into errors for the caller, which name no path."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise ResourceExhausted(
                f"checkpoint storage is full ({os.strerror(error.errno)}); delete checkpoints or free space",
                reason="STORAGE_FULL",
            ) from error
        if error.errno in _REFUSED:
            raise FailedPrecondition(
                f"checkpoint storage can't be written ({os.strerror(error.errno)}); see setting checkpoint_root",
                reason="STORAGE_NOT_WRITABLE",
            ) from error
        raise


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds a lock that one thread of one process has at a time; it goes with its process."""
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def write(path: Path, content: bytes, *, durable: bool) -> None:
    """Writes a new file; with `durable` it is on the disk when this returns."""
    with path.open("xb") as file:
        file.write(content)
        if durable:
            file.flush()
            os.fsync(file.fileno())


def replace(path: Path, content: bytes) -> None:
    """Puts a file in the place of another one at one instant; durable when it returns."""
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        write(beside, content, durable=True)
        beside.rename(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_folder(folder: Path) -> None:
    """Removes a folder and all in it, if it is there; another process may do the same at the same time."""
    shutil.rmtree(folder, onerror=_unless_gone)


def _unless_gone(function: object, path: str, problem: tuple[type[BaseException], BaseException, object]) -> None:
    if not isinstance(problem[1], FileNotFoundError):
        raise problem[1]

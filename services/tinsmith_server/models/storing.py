"""What a disk says when it does not take a model, in words that help."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tinsmith_server.serving.errors import FailedPrecondition, ResourceExhausted

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_SHUT = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.ENOENT)


@contextmanager
def storing(name: str, folder: Path, *, setting: str) -> Iterator[None]:
    """Work that writes base model `name` into `folder`, which `setting` chooses.

    A full disk is ResourceExhausted STORAGE_FULL, a folder that can't be written FailedPrecondition
    STORAGE_NOT_WRITABLE; other errors pass.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise ResourceExhausted(
                f"no room for base model {name!r} in {folder}: {error.strerror}; make room, or set {setting} elsewhere",
                reason="STORAGE_FULL",
                metadata={"base_model": name},
            ) from error
        if error.errno in _SHUT:
            raise FailedPrecondition(
                f"can't keep base model {name!r} in {folder}: {error.strerror}; set {setting} to a folder that can be "
                "written",
                reason="STORAGE_NOT_WRITABLE",
                metadata={"base_model": name},
            ) from error
        raise

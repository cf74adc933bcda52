"""One suite in a home: the lock that `up` holds for its life. The kernel frees it however the process ends."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

_NAME = "suite.lock"


@contextmanager
def taken(home: Path) -> Iterator[bool]:
    """Whether the home is ours until the block ends; False when another process has it."""
    with (home / _NAME).open("w") as file:
        yield _take(file)


def is_taken(home: Path) -> bool:
    """Whether a suite runs in the home."""
    try:
        with (home / _NAME).open("r") as file:
            return not _take(file)
    except FileNotFoundError:
        return False


def _take(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True

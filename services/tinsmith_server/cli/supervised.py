"""Processes that end with the one that started them, however that one ends."""

import ctypes
import os
import signal
from collections.abc import Mapping

_SUPERVISOR = "TINSMITH_SUPERVISOR_PID"


def supervised(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment for a child that is to end with this process."""
    return {**environment, _SUPERVISOR: str(os.getpid())}


def end_with_supervisor() -> None:
    """Asks the kernel for SIGTERM when the supervisor ends; nothing when this process has none.

    That is Linux only: elsewhere a supervisor that is killed leaves its children behind.
    """
    supervisor = os.environ.get(_SUPERVISOR)
    if supervisor is None:
        return
    if hasattr(ctypes.CDLL(None), "prctl"):
        from tinsmith_server.serving.launcher import die_with_parent

        die_with_parent()
    if os.getppid() != int(supervisor):  # it ended before we asked
        os.kill(os.getpid(), signal.SIGTERM)

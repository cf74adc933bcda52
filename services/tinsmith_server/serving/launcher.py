"""How a room's process is started: with an environment that must be there before it begins."""

import ctypes
import os
import signal
import sys
from collections.abc import Mapping

LAUNCHED = "TINSMITH_LAUNCHED"
"""Marks an environment that this module made."""

_ENVIRONMENT = {
    # glibc gives large freed blocks back to the kernel and faults them in again for every big message: a 1 MB echo
    # takes 5 ms instead of 2 without these.
    "MALLOC_MMAP_THRESHOLD_": str(32 * 1024 * 1024),
    "MALLOC_TRIM_THRESHOLD_": str(1024 * 1024 * 1024),
    # Threads of the tokenizer library deadlock after a fork and fight with torch's for two cores.
    "TOKENIZERS_PARALLELISM": "false",
    # What gRPC has to say is said by us, in one line: it writes to stderr beside the log.
    "GRPC_VERBOSITY": "NONE",
    LAUNCHED: "1",
}


def launch_environment(base: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment of a room's process. What the user has set stays."""
    return _ENVIRONMENT | dict(base) | {LAUNCHED: "1"}


def relaunch_if_needed() -> None:
    """Starts this same program again in the right environment, unless it has it."""
    if os.environ.get(LAUNCHED) != "1":
        os.execve(sys.executable, [sys.executable, "-m", "tinsmith_server.cli", *sys.argv[1:]], launch_environment())


def die_with_parent() -> None:
    """Asks the kernel (Linux) to end this process when the one that started it ends, however it ends."""
    parent_death_signal = 1
    ctypes.CDLL(None).prctl(parent_death_signal, signal.SIGTERM)

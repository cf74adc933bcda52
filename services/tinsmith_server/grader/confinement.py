"""What a worker process may not do: reach a network, become another user, start processes, write files, grow, go on
for ever. All of it is kept by the kernel."""

import ctypes
import math
import os
import pwd
import resource
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass

_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_UNPRIVILEGED_USER = "nobody"
_MOST_OPEN_FILES = 64
_GRACE_CPU_S = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What a worker may use."""

    memory_bytes: int
    """Address space."""


def die_with_parent() -> None:
    """Asks the kernel (Linux) to kill this process when its parent ends, however it ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def leave_network() -> bool:
    """Moves this process, and those that it will start, to a network without interfaces; whether that was allowed."""
    if sys.platform != "linux":
        return False
    unshare = ctypes.CDLL(None).unshare
    flags = (_CLONE_NEWNET,) if os.geteuid() == 0 else (_CLONE_NEWUSER | _CLONE_NEWNET,)
    return any(unshare(flag) == 0 for flag in flags)


def confine(limits: Limits) -> Mapping[str, str]:
    """Gives up every right that a comparison does not need. Returns what was done, for the server's log."""
    user = _become_nobody()
    die_with_parent()  # after the change of user, which would undo it
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    for kind, most in (
        (resource.RLIMIT_AS, limits.memory_bytes),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_NOFILE, _MOST_OPEN_FILES),
    ):
        resource.setrlimit(kind, (most, most))
    return {"user": user}


def allow_cpu(seconds: float) -> None:
    """Lets this process use about `seconds` more of a processor; beyond, the kernel ends it. A second line of defence
    for when the server, which kills by the clock, is itself stopped."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    most = math.ceil(used.ru_utime + used.ru_stime + seconds + _GRACE_CPU_S)
    resource.setrlimit(resource.RLIMIT_CPU, (most, resource.RLIM_INFINITY))


def _become_nobody() -> str:
    if os.geteuid() != 0:
        return f"uid {os.geteuid()}"
    nobody = pwd.getpwnam(_UNPRIVILEGED_USER)
    os.setgroups([])
    os.setresgid(nobody.pw_gid, nobody.pw_gid, nobody.pw_gid)
    os.setresuid(nobody.pw_uid, nobody.pw_uid, nobody.pw_uid)
    return _UNPRIVILEGED_USER

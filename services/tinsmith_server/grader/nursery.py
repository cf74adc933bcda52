"""A process that has imported everything and from which workers are forked: a new one takes milliseconds, not a second.

It never sees a model's text, has one thread, knows neither gRPC nor the server's environment, and ends with the server.
Started as `python -m tinsmith_server.grader.nursery CONTROL_FD JUDGE MEMORY_BYTES`.
"""

import gc
import os
import signal
import socket
import struct
import sys
import traceback

from tinsmith_server.grader.confinement import Limits, die_with_parent, leave_network
from tinsmith_server.grader.grader import Judge
from tinsmith_server.grader.judges import Compare, load
from tinsmith_server.grader.worker import work

COMMAND = struct.Struct("!cq")
"""A letter and a process id: SPAWN comes with the file descriptor of a socket for the new worker."""
SPAWN, KILL = b"S", b"K"
_UNUSED = ("numpy", "scipy")
"""What sympy uses where it is installed: it must change no grade, and numpy starts threads, which a worker may not."""
RECURSION_LIMIT = 3000
"""Enough for what the limits of the parser let through; more could overflow the stack of the interpreter itself."""


def main() -> None:
    """Serves the control socket until the server is gone."""
    die_with_parent()
    descriptor, judge, memory_bytes = sys.argv[1:]
    control = socket.socket(fileno=int(descriptor))
    without_network = leave_network()
    sys.setrecursionlimit(RECURSION_LIMIT)
    for name in _UNUSED:
        sys.modules[name] = None  # type: ignore[assignment]  # makes an import of it fail
    compare = load(Judge(judge))
    gc.freeze()  # so that collections in the workers do not copy the pages they share
    _serve(control, compare, Limits(memory_bytes=int(memory_bytes)), without_network)


def _serve(control: socket.socket, compare: Compare, limits: Limits, without_network: bool) -> None:
    alive: set[int] = set()
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, COMMAND.size, 1)
        _reap(alive)
        if not message:
            return
        command, process = COMMAND.unpack(message)
        if command == KILL and process in alive:
            os.kill(process, signal.SIGKILL)
        elif command == SPAWN:
            alive.add(_fork(control, descriptors[0], compare, limits, without_network))


def _fork(control: socket.socket, descriptor: int, compare: Compare, limits: Limits, without_network: bool) -> int:
    process = os.fork()
    if process:
        os.close(descriptor)
        return process
    try:
        control.close()
        work(socket.socket(fileno=descriptor), compare, limits, without_network=without_network)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0)


def _reap(alive: set[int]) -> None:
    """Forgets workers that have ended. Until then their ids can't be those of other processes."""
    while alive:
        process, _ = os.waitpid(-1, os.WNOHANG)
        if process == 0:
            return
        alive.discard(process)


if __name__ == "__main__":
    main()

"""The nursery of one judge, as the server sees it."""

import asyncio
import json
import os
import socket
import sys
from contextlib import suppress

from tinsmith_server.grader.grader import Judge
from tinsmith_server.grader.nursery import COMMAND, KILL, SPAWN
from tinsmith_server.grader.worker_handle import Hello, Worker
from tinsmith_server.serving.errors import Unavailable

_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 5.0
_LONGEST_LINE = 1 << 20


class Nursery:
    """Starts workers of a judge; comes back by itself when it has died."""

    def __init__(self, judge: Judge, *, worker_memory_bytes: int) -> None:
        self._judge = judge
        self._worker_memory_bytes = worker_memory_bytes
        self._starting = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None
        self._control: socket.socket | None = None

    async def spawn(self) -> Worker:
        """A new worker. Unavailable with reason WORKERS_UNAVAILABLE when none can be started."""
        for _ in range(2):
            await self._ensure_started()
            with suppress(OSError, ValueError, TimeoutError):
                return await self._spawn()
            await self.stop()
        raise Unavailable(
            "no worker process could be started; the grader's log says why",
            reason="WORKERS_UNAVAILABLE",
            retry_after_s=1.0,
        )

    async def stop(self) -> None:
        """Ends the nursery and, with it, its workers."""
        control, process = self._control, self._process
        self._control = self._process = None
        if control is not None:
            control.close()
        if process is None or process.returncode is not None:
            return
        try:
            async with asyncio.timeout(_STOP_TIMEOUT_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()

    async def _ensure_started(self) -> None:
        async with self._starting:
            if self._process is not None and self._process.returncode is None:
                return
            await self.stop()
            self._control, theirs = socket.socketpair()
            with theirs:
                self._process = await self._start(theirs.fileno())

    async def _start(self, descriptor: int) -> asyncio.subprocess.Process:
        arguments = (str(descriptor), self._judge.value, str(self._worker_memory_bytes))
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "tinsmith_server.grader.nursery", *arguments),
            pass_fds=(descriptor,),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            start_new_session=True,  # an interrupt from the terminal is for the server, which drains first
            env=_environment(),
        )

    async def _spawn(self) -> Worker:
        ours, theirs = socket.socketpair()
        with theirs:
            self._command(SPAWN, 0, (theirs.fileno(),))
        reader, writer = await asyncio.open_connection(sock=ours, limit=_LONGEST_LINE)
        try:
            async with asyncio.timeout(_START_TIMEOUT_S):
                hello = Hello(**json.loads(await reader.readline()))
        except BaseException:
            writer.close()
            raise
        return Worker(reader, writer, hello, self._kill)

    def _kill(self, pid: int) -> None:
        with suppress(OSError):  # the nursery is dead, and its workers with it
            self._command(KILL, pid)

    def _command(self, letter: bytes, pid: int, descriptors: tuple[int, ...] = ()) -> None:
        if self._control is None:
            raise BrokenPipeError
        socket.send_fds(self._control, [COMMAND.pack(letter, pid)], descriptors)


def _environment() -> dict[str, str]:
    """No more than Python needs: what the server was given, such as keys, is none of the workers' business."""
    return {
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "PYTHONHASHSEED": "0",  # sympy's order of terms, and so its time, does not change from run to run
        "LC_ALL": "C.UTF-8",
    }

"""One room of a suite: its process, and the next one when that dies."""

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tinsmith_server.cli.plan import RoomPlan
from tinsmith_server.cli.state import ServiceState
from tinsmith_server.cli.supervised import supervised

MOST_EARLY_DEATHS = 5
"""So often may a room die before it was ever ready."""
STOP_TIMEOUT_S = 25.0
"""Longer than any room drains by default; after it the process is killed."""

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 5.0
_PROBE_S = 0.1
_CAN_NOT_SERVE = (1, 2)
"""Exit codes of a room that says why it can't serve: another try would say the same."""


class RoomFailed(Exception):
    """A room can't be started; the message says why."""


class RoomProcess:
    """Keeps one room alive at its address."""

    def __init__(self, plan: RoomPlan, changed: Callable[[], None]) -> None:
        """`changed` is called after every change of `state`."""
        self.plan = plan
        self._changed = changed
        self._process: asyncio.subprocess.Process | None = None
        self._status = "starting"
        self._restarts = 0
        self._was_ready = False
        self._stopping = False
        self._log_start = 0
        self.last_words = ""
        """Last line of the log of the process that died last."""

    @property
    def state(self) -> ServiceState:
        process = self._process
        return ServiceState(
            address=self.plan.address,
            pid=process.pid if process and process.returncode is None else None,
            state=self._status,
            restarts=self._restarts,
            log=str(self.plan.log),
            http_address=self.plan.http_address,
        )

    async def keep_alive(self) -> None:
        """Runs until `stop`. RoomFailed when the room says that it can't serve, or keeps dying at its start."""
        deaths = 0
        while not self._stopping:
            self._process = await self._start()
            self._changed()
            listening = asyncio.Event()
            assert self._process.stdout is not None  # a pipe: see _start
            reading = asyncio.create_task(self._log_output(self._process.stdout, listening))
            probing = asyncio.create_task(self._until_ready(listening))
            code = await self._process.wait()
            deaths = 1 if probing.done() and not probing.cancelled() else deaths + 1
            probing.cancel()
            await reading
            if self._stopping:
                return
            self._note_death(code, deaths)
            await asyncio.sleep(min(_FIRST_PAUSE_S * 2 ** (deaths - 1), _LONGEST_PAUSE_S))

    async def stop(self) -> None:
        """Asks the process to end, waits for it, and kills it when it takes too long."""
        self._stopping = True
        process = self._process
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            try:
                await asyncio.wait_for(process.wait(), STOP_TIMEOUT_S)
            except TimeoutError:
                self.kill()
                await process.wait()
        self._become("stopped")

    def kill(self) -> None:
        """Ends the process at once."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    async def _start(self) -> asyncio.subprocess.Process:
        with self.plan.log.open("ab") as log:
            self._log_start = log.tell()
            return await asyncio.create_subprocess_exec(
                *self.plan.command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env=supervised(self.plan.environment),
                # Ctrl-C on the terminal is for the suite, which then stops its rooms in order.
                start_new_session=True,
            )

    async def _log_output(self, output: asyncio.StreamReader, listening: asyncio.Event) -> None:
        """The first line that the process prints says that it has its address; the others go into the log."""
        if await output.readline():
            listening.set()
        with self.plan.log.open("ab") as log:
            async for line in output:
                log.write(line)
                log.flush()

    async def _until_ready(self, listening: asyncio.Event) -> None:
        await listening.wait()  # before that, another program might answer at the address
        async with grpc.aio.insecure_channel(self.plan.address, options=_PROBE_OPTIONS) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            while not await _is_serving(health):  # noqa: ASYNC110  # there is no event: it is another process
                await asyncio.sleep(_PROBE_S)
        self._was_ready = True
        self._become("ready")

    def _note_death(self, code: int, deaths: int) -> None:
        self.last_words = self._last_log_line() or f"it ended without a word, {_in_words(code)}"
        if not self._was_ready and (code in _CAN_NOT_SERVE or deaths >= MOST_EARLY_DEATHS):
            raise RoomFailed(f"{self.plan.name} can't start: {self.last_words} (log: {self.plan.log})")
        self._restarts += 1
        self._become("restarting")

    def _last_log_line(self) -> str:
        with self.plan.log.open("rb") as log:
            log.seek(self._log_start)
            lines = log.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""

    def _become(self, status: str) -> None:
        self._status = status
        self._changed()


_PROBE_OPTIONS = [
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 200),
    # A channel of its own: gRPC would share a connection that a dead process has left in long backoff.
    ("grpc.use_local_subchannel_pool", 1),
]


async def _is_serving(health: health_pb2_grpc.HealthStub) -> bool:
    try:
        answer = await health.Check(health_pb2.HealthCheckRequest(), timeout=2.0)
    except grpc.aio.AioRpcError:
        return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def _in_words(code: int) -> str:
    return f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"


def wait_until_gone(is_there: Callable[[], bool], timeout_s: float) -> bool:
    """Waits until something is no longer there; False when it still is after the time."""
    deadline = time.monotonic() + timeout_s
    while is_there():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True

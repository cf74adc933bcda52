"""A worker process, as the server sees it."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass

from tinsmith_server.grader.grade import Reason
from tinsmith_server.grader.grader import Job, Verdict


@dataclass(frozen=True, kw_only=True, slots=True)
class Hello:
    """What a worker says of itself."""

    pid: int
    user: str
    without_network: bool


class Worker:
    """One job at a time. It is dead after anything but an answer in time."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, hello: Hello, kill: Callable[[int], None]
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._kill = kill
        self.hello = hello
        self.jobs_done = 0
        self.alive = True

    async def judge(self, job: Job, timeout_s: float) -> Verdict:
        """The worker's verdict; DEADLINE, CRASHED or MEMORY when it had to end. Cancelling ends it too."""
        try:
            async with asyncio.timeout(timeout_s):
                answer = await self._exchange(job, timeout_s)
        except TimeoutError:
            self.end()
            return Verdict(reason=Reason.DEADLINE, message=f"took more than {timeout_s:g} s")
        except (OSError, ValueError, KeyError, TypeError):  # gone, or what it wrote is not an answer
            self.end()
            return Verdict(reason=Reason.CRASHED, message="the worker process ended")
        except asyncio.CancelledError:
            self.end()
            raise
        self.jobs_done += 1
        if answer.reason is Reason.MEMORY:
            self.end()
        return answer

    def end(self) -> None:
        """Kills the process."""
        if self.alive:
            self.alive = False
            self._writer.close()
            self._kill(self.hello.pid)

    async def _exchange(self, job: Job, timeout_s: float) -> Verdict:
        message = {
            "judge": job.judge.value,
            "answer": job.answer,
            "references": job.references,
            "relative_tolerance": job.relative_tolerance,
            "keep_units": job.keep_units,
            "timeout_s": timeout_s,
        }
        self._writer.write(json.dumps(message).encode() + b"\n")
        answer = json.loads(await self._reader.readline())
        return Verdict(reason=Reason(answer["reason"]), message=str(answer["message"]))

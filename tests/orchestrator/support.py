"""What tests of the orchestrator build with."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.orchestrator.fakes import Fakes
from tests.support import serving
from tinsmith.aio import Suite, watch_run
from tinsmith.orchestrator.v1 import GetRunRequest, Run, RunEvent, RunState, StartRunRequest
from tinsmith_server.orchestrator import ROOM

SERVICES = ("trainer", "sampler", "dataset", "grader", "environment")
SMALL: Mapping[str, str] = {
    "steps": "6",
    "groups_per_batch": "3",
    "group_size": "4",
    "save_every": "2",
    "eval_every": "3",
    "eval_problems": "5",
    "max_tokens": "5",
}
"""A run of a fraction of a second."""

QUICK: Mapping[str, Any] = {"patience_s": 5.0, "poll_s": 0.1, "lease_s": 0.5, "watch_heartbeat_s": 0.2}


@dataclass(frozen=True, kw_only=True, slots=True)
class Bench:
    """An orchestrator over stand-ins, and a client of it."""

    suite: Suite
    fakes: Fakes
    home: Path
    fakes_address: str

    async def start(self, **overrides: str) -> Run:
        """Starts a small run."""
        request = StartRunRequest(recipe="math_rl", overrides={**SMALL, **overrides})
        return (await self.suite.orchestrator.StartRun(request)).run

    async def get(self, run_id: str) -> Run:
        return (await self.suite.orchestrator.GetRun(GetRunRequest(run_id=run_id))).run

    async def events(self, run_id: str, after_seq: int = 0) -> list[RunEvent]:
        """The run's events, after it has ended."""
        async with asyncio.timeout(60):
            watch = watch_run(self.suite, run_id, after_seq=after_seq)
            return [event async for answer in watch for event in answer.events]

    async def finished(self, run_id: str) -> Run:
        """The run, after it has ended."""
        await self.events(run_id)
        return await self.get(run_id)

    async def until_step(self, run_id: str, step: int) -> None:
        """Waits until the run has done so many steps."""
        async with asyncio.timeout(60):
            async for answer in watch_run(self.suite, run_id):
                if any(event.step >= step and event.HasField("step_completed") for event in answer.events):
                    return

    def adapter(self, run: Run) -> str:
        """What the run has trained."""
        content: str = self.fakes.trainer._read(run.checkpoint_uri)["adapter"]
        return content


@asynccontextmanager
async def orchestrator(home: Path, fakes_address: str, **settings: Any) -> AsyncIterator[str]:
    """An orchestrator of this process; yields its address."""
    addresses = dict.fromkeys(SERVICES, fakes_address)
    async with serving(ROOM, home, **{**QUICK, **addresses, **settings}) as address:
        yield address


@asynccontextmanager
async def bench(home: Path, **settings: Any) -> AsyncIterator[Bench]:
    """Stand-ins and an orchestrator over them, in this process."""
    fakes = Fakes(home / "checkpoints")
    async with AsyncExitStack() as stack:
        fakes_address = await stack.enter_async_context(serving(fakes.room(), home))
        address = await stack.enter_async_context(orchestrator(home, fakes_address, **settings))
        suite = await stack.enter_async_context(Suite.connect(orchestrator=address))
        yield Bench(suite=suite, fakes=fakes, home=home, fakes_address=fakes_address)


def kinds(events: list[RunEvent]) -> list[str]:
    return [event.WhichOneof("event") or "" for event in events]


def states(events: list[RunEvent]) -> list[str]:
    """The states that the run went through."""
    changes = [event.state_changed.state for event in events if event.HasField("state_changed")]
    return [RunState.Name(state).removeprefix("RUN_STATE_") for state in changes]

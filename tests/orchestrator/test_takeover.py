"""Runs outlive the process that drives them."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.orchestrator.fakes import Fakes
from tests.orchestrator.support import QUICK, SERVICES, Bench, bench, kinds, orchestrator, states
from tests.support import serving
from tinsmith.aio import Suite
from tinsmith.orchestrator.v1 import RunState

COMPLETED = RunState.RUN_STATE_COMPLETED
SERVE = (
    "import json, sys\n"
    "from tinsmith_server.orchestrator import ROOM\n"
    "from tinsmith_server.serving import run_room\n"
    "sys.exit(run_room(ROOM, ROOM.settings.model_validate(json.loads(sys.argv[1]))))\n"
)


async def undisturbed(home: Path) -> str:
    async with bench(home) as orchestra:
        return orchestra.adapter(await orchestra.finished((await orchestra.start(steps="8")).run_id))


async def test_a_run_whose_orchestrator_was_stopped_is_taken_up_by_the_next(tmp_path: Path) -> None:
    fakes = Fakes(tmp_path / "checkpoints")
    fakes.faults.slow = {"Sample": 0.03}
    async with serving(fakes.room(), tmp_path) as fakes_address:
        async with orchestrator(tmp_path, fakes_address) as address, Suite.connect(orchestrator=address) as suite:
            first = Bench(suite=suite, fakes=fakes, home=tmp_path, fakes_address=fakes_address)
            run = await first.start(steps="8")
            await first.until_step(run.run_id, 3)
        async with orchestrator(tmp_path, fakes_address) as address, Suite.connect(orchestrator=address) as suite:
            second = Bench(suite=suite, fakes=fakes, home=tmp_path, fakes_address=fakes_address)
            events = await second.events(run.run_id)
            ended = await second.get(run.run_id)
    recovered = next(event.recovered for event in events if event.HasField("recovered"))
    assert recovered.cause.reason == "ORCHESTRATOR_RESTARTED"
    assert recovered.from_step >= 2
    assert states(events) == ["PENDING", "RUNNING", "COMPLETED"]
    assert second.adapter(ended) == await undisturbed(tmp_path / "other")


async def test_two_orchestrators_on_one_database_share_the_runs(orchestra: Bench) -> None:
    """A run is driven by one of them, and can be watched and cancelled through the other."""
    orchestra.fakes.faults.slow = {"Sample": 0.03}
    async with (
        orchestrator(orchestra.home, orchestra.fakes_address) as address,
        Suite.connect(orchestrator=address) as suite,
    ):
        other = Bench(suite=suite, fakes=orchestra.fakes, home=orchestra.home, fakes_address=orchestra.fakes_address)
        runs = [await orchestra.start(steps="3"), await other.start(steps="3", seed="1")]
        for run in runs:
            events = await other.events(run.run_id)
            assert states(events) == ["PENDING", "RUNNING", "COMPLETED"]
            assert "recovered" not in kinds(events)
            assert await orchestra.events(run.run_id) == events


@asynccontextmanager
async def killable(home: Path, fakes_address: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """An orchestrator in a process of its own; yields it and its address."""
    settings = {**QUICK, **dict.fromkeys(SERVICES, fakes_address), "address": "127.0.0.1:0", "home": str(home)}
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SERVE, json.dumps(settings), stdout=asyncio.subprocess.PIPE, env=environment
    )
    try:
        assert process.stdout is not None
        yield process, json.loads(await process.stdout.readline())["address"]
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.mark.chaos
async def test_a_run_whose_orchestrator_is_killed_again_and_again_ends_as_if_nothing_had_been(tmp_path: Path) -> None:
    fakes = Fakes(tmp_path / "checkpoints")
    fakes.faults.slow = {"Sample": 0.2}
    run_id = ""
    async with serving(fakes.room(), tmp_path) as fakes_address:
        for step in (1, 3, 5, 8):
            async with (
                killable(tmp_path, fakes_address) as (process, address),
                Suite.connect(orchestrator=address, wait_for_ready=True) as suite,
            ):
                orchestra = Bench(suite=suite, fakes=fakes, home=tmp_path, fakes_address=fakes_address)
                run_id = run_id or (await orchestra.start(steps="8")).run_id
                await orchestra.until_step(run_id, step)
                if step < 8:
                    process.kill()
                    continue
                events = await orchestra.events(run_id)
                ended = await orchestra.get(run_id)
    assert (ended.state, ended.step) == (COMPLETED, 8)
    assert 1 <= kinds(events).count("recovered") <= 3, "a kill may come before the next one took the run up"
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert orchestra.adapter(ended) == await undisturbed(tmp_path / "other")

"""Watches of runs: stored events, then new ones, until the run has ended."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress

from tinsmith.orchestrator.v1 import RunState, WatchRunResponse
from tinsmith_server.orchestrator.store import ENDED, Runs

_EVENTS_A_MESSAGE = 500


async def watch(runs: Runs, run_id: str, after_seq: int, heartbeat_s: float) -> AsyncGenerator[WatchRunResponse, None]:
    """Messages of a watch, at least one every `heartbeat_s`. NotFound with reason RUN_NOT_FOUND.

    Events that this process writes are seen at once; those of another one with the next sign of life.
    """
    state: RunState.ValueType = RunState.RUN_STATE_UNSPECIFIED
    with runs.changes.of(run_id) as changed:
        while True:
            changed.clear()
            run, events = await runs.events(run_id, after_seq, _EVENTS_A_MESSAGE)
            after_seq = events[-1].seq if events else after_seq
            yield WatchRunResponse(events=events, seen_seq=after_seq, run=run if run.state != state else None)
            state = run.state
            if after_seq < run.last_event_seq:
                continue
            if state in ENDED:
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(heartbeat_s):
                    await changed.wait()

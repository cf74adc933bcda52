"""Runs: a row each, append-only events, checkpoints."""

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update
from sqlalchemy.dialects.sqlite import insert as upsert

from tinsmith.orchestrator.v1 import Run, RunError, RunEvent, RunState, StateChanged
from tinsmith_server.orchestrator.store.changes import Changes
from tinsmith_server.orchestrator.store.clock import now_ns, timestamp
from tinsmith_server.orchestrator.store.database import Database
from tinsmith_server.orchestrator.store.leases import check_lease
from tinsmith_server.orchestrator.store.paging import page, page_length, token_after
from tinsmith_server.orchestrator.store.rows import event_of, run_of
from tinsmith_server.orchestrator.store.run_values import ENDED, NewRun, RunChange, RunFilter, SavedCheckpoint
from tinsmith_server.orchestrator.store.schema import checkpoints, events, leases, runs
from tinsmith_server.serving.errors import FailedPrecondition, NotFound

_RESUMABLE = frozenset({RunState.RUN_STATE_FAILED, RunState.RUN_STATE_CANCELLED})


class Runs:
    """The runs of a database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.changes = Changes()

    async def create(self, new: NewRun) -> Run:
        """Stores a run as PENDING; with a request_id that was used before, returns that run instead."""

        def work(connection: Connection) -> Run:
            key = _request_key(new.request_id, new.tenant)
            row = connection.execute(select(runs).where(runs.c.request_id == key)).one_or_none() if key else None
            if row is None:
                connection.execute(insert(runs).values(**_values(new)))
                change = RunChange(state=RunState.RUN_STATE_PENDING)
                return _append(connection, new.run_id, [state_changed(RunState.RUN_STATE_PENDING)], change)
            return run_of(row)

        return await self._database.write(work, durable=True)

    async def find_request(self, request_id: str, tenant: str) -> Run | None:
        """The run that this tenant started with this request_id; None when there is none."""
        statement = select(runs).where(runs.c.request_id == _request_key(request_id, tenant))
        row = await self._database.read(lambda connection: connection.execute(statement).one_or_none())
        return None if row is None else run_of(row)

    async def get(self, run_id: str) -> Run:
        """One run. NotFound with reason RUN_NOT_FOUND."""
        return await self._database.read(lambda connection: run_of(_row(connection, run_id)))

    async def check_owner(self, run_id: str, tenant: str | None) -> None:
        """NotFound with reason RUN_NOT_FOUND unless the run is of this tenant; None owns every run."""
        if tenant is not None and (await self.get(run_id)).tenant != tenant:
            raise _not_found(run_id)

    async def list_page(self, wanted: RunFilter, size: int, token: str) -> tuple[list[Run], str]:
        """A page of runs, newest first, and the token of the next page, empty on the last."""
        statement = page(select(runs), runs.c.create_time_ns, runs.c.run_id, size, token)
        if wanted.state:
            statement = statement.where(runs.c.state == wanted.state)
        if wanted.recipe:
            statement = statement.where(runs.c.recipe == wanted.recipe)
        if wanted.tenant is not None:
            statement = statement.where(runs.c.tenant == wanted.tenant)
        found = await self._database.read(lambda connection: connection.execute(statement).all())
        shown = found[: page_length(size)]
        return [run_of(row) for row in shown], token_after(shown[-1], "run_id") if len(found) > len(shown) else ""

    async def events(self, run_id: str, after_seq: int, limit: int) -> tuple[Run, list[RunEvent]]:
        """The run and its events behind `after_seq`, as they are at one moment."""
        behind = select(events).where(events.c.run_id == run_id, events.c.seq > after_seq)
        statement = behind.order_by(events.c.seq).limit(limit)

        def work(connection: Connection) -> tuple[Run, list[RunEvent]]:
            run = run_of(_row(connection, run_id))
            return run, [event_of(row) for row in connection.execute(statement)]

        return await self._database.read(work)

    async def append(self, run_id: str, owner: str, new: Sequence[RunEvent], change: RunChange) -> Run:
        """Adds events and what they change, all or nothing. LeaseLost unless `owner` drives the run."""

        def work(connection: Connection) -> Run:
            check_lease(connection, run_id, owner)
            return _append(connection, run_id, new, change)

        run = await self._database.write(work, durable=change.must_be_durable)
        self.changes.tell(run_id)
        return run

    async def begin_attempt(self, run_id: str, owner: str) -> tuple[Run, int]:
        """Counts a beginning of the run's driving, from 1, for ever; the run and the count."""

        def work(connection: Connection) -> tuple[Run, int]:
            check_lease(connection, run_id, owner)
            one = runs.c.run_id == run_id
            connection.execute(update(runs).where(one).values(attempt=runs.c.attempt + 1))
            row = _row(connection, run_id)
            return run_of(row), row.attempt

        return await self._database.write(work, durable=True)

    async def usable_checkpoints(self, run_id: str) -> list[SavedCheckpoint]:
        """The run's checkpoints that were not found damaged, newest first."""
        of_run = select(checkpoints).where(checkpoints.c.run_id == run_id, ~checkpoints.c.unusable)
        statement = of_run.order_by(checkpoints.c.step.desc())
        found = await self._database.read(lambda connection: connection.execute(statement).all())
        return [_checkpoint_of(row) for row in found]

    async def mark_unusable(self, checkpoint_uri: str) -> None:
        """The checkpoint is damaged or gone; it is not offered again."""
        one = checkpoints.c.checkpoint_uri == checkpoint_uri
        statement = update(checkpoints).where(one).values(unusable=True)
        await self._database.write(lambda connection: connection.execute(statement), durable=True)

    async def request_cancel(self, run_id: str) -> Run:
        """Asks the run's driver to end it; a run without a driver is cancelled at once, an ended one stays as it is."""

        def work(connection: Connection) -> Run:
            run = run_of(_row(connection, run_id))
            if run.state in ENDED:
                return run
            connection.execute(update(runs).where(runs.c.run_id == run_id).values(cancel_requested=True))
            driven = connection.scalar(select(leases.c.owner).where(leases.c.run_id == run_id)) is not None
            if driven or run.state == RunState.RUN_STATE_RUNNING:
                return run
            cancelled = RunState.RUN_STATE_CANCELLED
            return _append(connection, run_id, [state_changed(cancelled, run.step)], RunChange(state=cancelled))

        run = await self._database.write(work, durable=True)
        self.changes.tell(run_id)
        return run

    async def resume(self, run_id: str) -> Run:
        """Makes a failed or cancelled run PENDING. FailedPrecondition with reason RUN_NOT_RESUMABLE otherwise."""

        def work(connection: Connection) -> Run:
            run = run_of(_row(connection, run_id))
            if run.state not in _RESUMABLE:
                raise _not_resumable(run)
            connection.execute(update(runs).where(runs.c.run_id == run_id).values(cancel_requested=False))
            pending = RunState.RUN_STATE_PENDING
            return _append(connection, run_id, [state_changed(pending, run.step)], RunChange(state=pending))

        run = await self._database.write(work, durable=True)
        self.changes.tell(run_id)
        return run


def state_changed(state: "RunState.ValueType", step: int = 0, error: RunError | None = None) -> RunEvent:
    """The event of a new state."""
    return RunEvent(step=step, state_changed=StateChanged(state=state, error=error))


def _values(new: NewRun) -> dict[str, object]:
    return {
        "run_id": new.run_id,
        "request_id": _request_key(new.request_id, new.tenant),
        "recipe": new.recipe,
        "config": new.config.SerializeToString(deterministic=True),
        "state": RunState.RUN_STATE_PENDING,
        "step": 0,
        "total_steps": new.total_steps,
        "attempt": 0,
        "create_time_ns": now_ns(),
        "error_reason": "",
        "error_message": "",
        "checkpoint_uri": "",
        "sampler_uri": "",
        "metrics": "{}",
        "display_name": new.display_name,
        "labels": json.dumps(dict(new.labels)),
        "last_event_seq": 0,
        "cancel_requested": False,
        "tenant": new.tenant,
    }


def _request_key(request_id: str, tenant: str) -> str | None:
    """A request_id as it is stored: tenants may use the same ones without meeting each other's runs."""
    if not request_id:
        return None
    return f"{tenant}/{request_id}" if tenant else request_id


def _row(connection: Connection, run_id: str) -> Row[Any]:
    row = connection.execute(select(runs).where(runs.c.run_id == run_id)).one_or_none()
    if row is None:
        raise _not_found(run_id)
    return row


def _not_found(run_id: str) -> NotFound:
    message = f"no run {run_id!r}; ListRuns shows those there are"
    return NotFound(message, reason="RUN_NOT_FOUND", metadata={"run_id": run_id})


def _append(connection: Connection, run_id: str, new: Sequence[RunEvent], change: RunChange) -> Run:
    """Numbers the events, stores them and brings the row up to date."""
    row = _row(connection, run_id)
    now = now_ns()
    for seq, event in enumerate(new, row.last_event_seq + 1):
        event.seq = seq
        event.time.CopyFrom(timestamp(now))
    if new:
        stored = [{"run_id": run_id, "seq": event.seq, "event": event.SerializeToString()} for event in new]
        connection.execute(insert(events), stored)
    changed = _changed(row, change, now) | {"last_event_seq": row.last_event_seq + len(new)}
    connection.execute(update(runs).where(runs.c.run_id == run_id).values(**changed))
    if change.checkpoint is not None:
        _keep_checkpoint(connection, run_id, change.checkpoint)
    return run_of(_row(connection, run_id))


def _changed(row: Row[Any], change: RunChange, now: int) -> dict[str, object]:
    changed: dict[str, object] = {}
    if change.state is not None:
        error = change.error or RunError()
        changed |= {
            "state": change.state,
            "end_time_ns": now if change.state in ENDED else None,
            "error_reason": error.reason,
            "error_message": error.message,
        }
    if change.step is not None:
        changed["step"] = change.step
    if change.metrics:
        changed["metrics"] = json.dumps(json.loads(row.metrics) | dict(change.metrics))
    if change.checkpoint is not None:
        changed |= {
            "checkpoint_uri": change.checkpoint.checkpoint_uri,
            "sampler_uri": change.checkpoint.sampler_uri,
        }
    elif change.forget_checkpoint:
        changed |= {"checkpoint_uri": "", "sampler_uri": ""}
    return changed


def _keep_checkpoint(connection: Connection, run_id: str, checkpoint: SavedCheckpoint) -> None:
    values = {
        "run_id": run_id,
        "step": checkpoint.step,
        "sampler_uri": checkpoint.sampler_uri,
        "adapter_sha256": checkpoint.adapter_sha256,
        "unusable": False,
    }
    kept = upsert(checkpoints).values(checkpoint_uri=checkpoint.checkpoint_uri, **values)
    connection.execute(kept.on_conflict_do_update(index_elements=[checkpoints.c.checkpoint_uri], set_=values))


def _checkpoint_of(row: Row[Any]) -> SavedCheckpoint:
    return SavedCheckpoint(
        step=row.step,
        checkpoint_uri=row.checkpoint_uri,
        sampler_uri=row.sampler_uri,
        adapter_sha256=row.adapter_sha256,
    )


def _not_resumable(run: Run) -> FailedPrecondition:
    state = RunState.Name(run.state).removeprefix("RUN_STATE_")
    advice = (
        "start a new run, with load_checkpoint to go on from its weights" if run.state in ENDED else "cancel it first"
    )
    return FailedPrecondition(
        f"run {run.run_id!r} is {state}: only failed and cancelled runs are resumed; {advice}",
        reason="RUN_NOT_RESUMABLE",
        metadata={"run_id": run.run_id, "state": state},
    )

"""Which process drives which run: at most one at a time.

A lease names its owner and expires unless it is renewed. Everything that a driver writes is written under its lease,
so a process that lost one without noticing can't write any more.
"""

from collections.abc import Mapping

from sqlalchemy import Connection, ScalarSelect, delete, func, or_, select, update
from sqlalchemy.dialects.sqlite import insert

from tinsmith.orchestrator.v1 import RunState
from tinsmith_server.orchestrator.store.clock import now_ns
from tinsmith_server.orchestrator.store.database import Database
from tinsmith_server.orchestrator.store.schema import leases, runs


class LeaseLost(Exception):
    """Another process drives the run now."""


class Leases:
    """The leases of one owner."""

    def __init__(self, database: Database, *, owner: str, duration_s: float) -> None:
        self._database = database
        self._owner = owner
        self._duration_ns = int(duration_s * 1e9)

    async def claim(self, limit: int) -> list[str]:
        """Takes up to `limit` runs that are to be driven and that nobody drives.

        Tenants take turns, however many runs one of them has waiting: first those that have the fewest runs driven,
        then the oldest run.
        """

        def work(connection: Connection) -> list[str]:
            now = now_ns()
            free = or_(leases.c.owner.is_(None), leases.c.expire_time_ns < now)
            to_drive = runs.c.state.in_((RunState.RUN_STATE_PENDING, RunState.RUN_STATE_RUNNING))
            turn = func.row_number().over(partition_by=runs.c.tenant, order_by=runs.c.create_time_ns)
            found = connection.scalars(
                select(runs.c.run_id)
                .outerjoin(leases, runs.c.run_id == leases.c.run_id)
                .where(to_drive, free, or_(leases.c.owner.is_(None), leases.c.owner != self._owner))
                .order_by(turn + _driven_of_tenant(now), runs.c.create_time_ns)
                .limit(limit)
            ).all()
            values = {"owner": self._owner, "expire_time_ns": now + self._duration_ns}
            for run_id in found:
                taken = insert(leases).values(run_id=run_id, **values)
                connection.execute(taken.on_conflict_do_update(index_elements=[leases.c.run_id], set_=values))
            return list(found)

        return await self._database.write(work) if limit > 0 else []

    async def renew(self) -> Mapping[str, bool]:
        """Prolongs the owner's leases; its runs, each with whether somebody asked to cancel it."""

        def work(connection: Connection) -> Mapping[str, bool]:
            expire_time_ns = now_ns() + self._duration_ns
            own = leases.c.owner == self._owner
            connection.execute(update(leases).where(own).values(expire_time_ns=expire_time_ns))
            held = select(runs.c.run_id, runs.c.cancel_requested).join(leases, runs.c.run_id == leases.c.run_id)
            return {row.run_id: row.cancel_requested for row in connection.execute(held.where(own))}

        return await self._database.write(work)

    async def release(self, run_id: str) -> None:
        """Gives a run back."""

        def work(connection: Connection) -> None:
            connection.execute(delete(leases).where(leases.c.run_id == run_id, leases.c.owner == self._owner))

        await self._database.write(work)


def _driven_of_tenant(now: int) -> ScalarSelect[int]:
    """How many runs of the same tenant as a row of `runs` are driven."""
    others, held = runs.alias(), leases.alias()
    driven = select(func.count()).select_from(others.join(held, others.c.run_id == held.c.run_id))
    return driven.where(others.c.tenant == runs.c.tenant, held.c.expire_time_ns >= now).scalar_subquery()


def check_lease(connection: Connection, run_id: str, owner: str) -> None:
    """Raises LeaseLost unless `owner` drives the run, expired or not."""
    if connection.scalar(select(leases.c.owner).where(leases.c.run_id == run_id)) != owner:
        raise LeaseLost(f"another process drives {run_id}")

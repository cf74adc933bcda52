"""Services that runs use, and the database they are kept in."""

from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from tests.orchestrator.support import Bench, orchestrator
from tests.support import serving
from tinsmith import TinsmithError
from tinsmith.aio import Suite
from tinsmith.orchestrator.v1 import (
    GetRunRequest,
    ListServicesRequest,
    RegisterServiceRequest,
    ServiceKind,
    UnregisterServiceRequest,
)
from tinsmith_server.orchestrator import ROOM
from tinsmith_server.orchestrator.store import Database
from tinsmith_server.orchestrator.store.schema import metadata
from tinsmith_server.serving import CannotServe


async def test_services_are_listed_with_their_health(orchestra: Bench) -> None:
    calls = orchestra.suite.orchestrator
    own = {"kind": ServiceKind.SERVICE_KIND_GRADER, "address": "127.0.0.1:1"}
    registered = (await calls.RegisterService(RegisterServiceRequest(name="mine", **own))).service
    assert (registered.registered, registered.healthy) == (True, False)
    listed = (await calls.ListServices(ListServicesRequest())).services
    health = {service.name: service.healthy for service in listed}
    assert health == {**dict.fromkeys(("trainer", "sampler", "dataset", "grader", "environment"), True), "mine": False}
    for name in ("mine", "trainer"):
        with pytest.raises(TinsmithError, match="SERVICE_EXISTS"):
            await calls.RegisterService(RegisterServiceRequest(name=name, **own))
    await calls.RegisterService(RegisterServiceRequest(name="mine", overwrite=True, **own))
    assert (await calls.UnregisterService(UnregisterServiceRequest(name="mine"))).removed
    assert not (await calls.UnregisterService(UnregisterServiceRequest(name="mine"))).removed


async def test_migrations_lead_to_the_tables_that_the_code_uses(tmp_path: Path) -> None:
    database = Database(tmp_path / "fresh.db")
    await database.open()
    await database.open()
    context = MigrationContext.configure
    different = await database.read(lambda connection: compare_metadata(context(connection), metadata))
    mode = await database.read(lambda connection: connection.exec_driver_sql("PRAGMA journal_mode").scalar())
    await database.close()
    assert (different, mode) == ([], "wal")


async def test_a_database_that_is_none_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "orchestrator.db").write_text("this is not a database, " * 100)
    with pytest.raises(CannotServe, match=r"orchestrator\.db: file is not a database"):
        async with serving(ROOM, tmp_path):
            pass


async def test_runs_are_still_there_after_a_restart(orchestra: Bench) -> None:
    run = await orchestra.finished((await orchestra.start(steps="1")).run_id)
    async with (
        orchestrator(orchestra.home, orchestra.fakes_address) as address,
        Suite.connect(orchestrator=address) as suite,
    ):
        assert (await suite.orchestrator.GetRun(GetRunRequest(run_id=run.run_id))).run == run

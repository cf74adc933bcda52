"""Runs of tenants: who sees them, in whose name they call, and in which order they are driven."""

from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import alembic.command
import grpc
import pytest
from alembic.config import Config
from sqlalchemy import create_engine, text

from tests.orchestrator.fakes import Fakes
from tests.orchestrator.support import Bench, orchestrator
from tests.serving.tenancy import key_of, write_tenants
from tests.support import serving
from tinsmith import Addresses, TinsmithError
from tinsmith.aio import Suite
from tinsmith.orchestrator.v1 import (
    CancelRunRequest,
    GetLineageRequest,
    GetRunRequest,
    ListModelsRequest,
    ListRunsRequest,
    RecipeConfig,
    ResumeRunRequest,
    RunState,
    StartRunRequest,
    WatchRunRequest,
)
from tinsmith_server.orchestrator import store
from tinsmith_server.orchestrator.store import Database, Leases, NewRun, RunFilter, Runs, schema
from tinsmith_server.serving import current_tenant
from tinsmith_server.serving.errors import NotFound

SERVICE_KEY = "k" * 32


@dataclass(frozen=True, kw_only=True, slots=True)
class Town:
    """An orchestrator and the services behind it, all of which want keys."""

    alice: Bench
    bob: Bench
    room: Suite
    """A room of the suite, by its service key."""
    callers: Counter[str]
    """The tenants in whose names the trainer was called."""


@pytest.fixture
async def town(tmp_path: Path) -> AsyncIterator[Town]:
    fakes, callers = Fakes(tmp_path / "checkpoints"), Counter[str]()
    fakes.trainer.OptimStep = _noting(fakes.trainer.OptimStep, callers)  # type: ignore[method-assign]  # calls it
    keys = {"api_keys": write_tenants(tmp_path, alice="", bob=""), "service_key": SERVICE_KEY}
    async with AsyncExitStack() as stack:
        behind = await stack.enter_async_context(serving(fakes.room(), tmp_path, **keys))
        address = await stack.enter_async_context(orchestrator(tmp_path, behind, **keys))

        async def client(key: str) -> Suite:
            return await stack.enter_async_context(Suite(Addresses(orchestrator=address), api_key=key))

        alice, bob, room = [await client(key) for key in (key_of("alice"), key_of("bob"), SERVICE_KEY)]
        benches = [Bench(suite=suite, fakes=fakes, home=tmp_path, fakes_address=behind) for suite in (alice, bob)]
        yield Town(alice=benches[0], bob=benches[1], room=room, callers=callers)


def _noting(method: Callable[..., Any], callers: Counter[str]) -> Callable[..., Any]:
    async def noted(request: Any, context: Any) -> Any:
        callers[current_tenant().name] += 1
        return await method(request, context)

    return noted


async def refused(call: Any) -> TinsmithError:
    with pytest.raises(TinsmithError) as failed:
        await call
    return failed.value


async def test_a_run_calls_in_the_name_of_the_tenant_that_started_it(town: Town) -> None:
    """R-02: its work counts against that tenant, though no call of the tenant is at work any more."""
    for bench, steps in ((town.alice, 2), (town.bob, 3)):
        run = await bench.finished((await bench.start(steps=str(steps))).run_id)
        assert run.state == RunState.RUN_STATE_COMPLETED, run.error
    assert town.callers == {"alice": 2, "bob": 3}


async def test_a_tenant_sees_and_touches_its_own_runs_only(town: Town) -> None:
    """A run of another is not there, in the words that are said of one that never was."""
    mine = await town.alice.finished((await town.alice.start(steps="1")).run_id)
    assert mine.tenant == "alice"
    for bench, seen in ((town.alice, [mine.run_id]), (town.bob, [])):
        listed = await bench.suite.orchestrator.ListRuns(ListRunsRequest())
        models = await bench.suite.orchestrator.ListModels(ListModelsRequest())
        assert [run.run_id for run in listed.runs] == [model.run_id for model in models.models] == seen
    bob = town.bob.suite.orchestrator
    calls = [
        bob.GetRun(GetRunRequest(run_id=mine.run_id)),
        bob.CancelRun(CancelRunRequest(run_id=mine.run_id)),
        bob.ResumeRun(ResumeRunRequest(run_id=mine.run_id)),
        anext(bob.WatchRun(WatchRunRequest(run_id=mine.run_id))),
    ]
    for call in calls:
        error = await refused(call)
        assert (error.code, error.reason) == (grpc.StatusCode.NOT_FOUND, "RUN_NOT_FOUND")
        absent = await refused(bob.GetRun(GetRunRequest(run_id="absent")))
        assert error.message == absent.message.replace("absent", mine.run_id)
    assert (await refused(bob.GetLineage(GetLineageRequest(model_id=mine.run_id)))).reason == "MODEL_NOT_FOUND"
    lineage = await town.alice.suite.orchestrator.GetLineage(GetLineageRequest(model_id=mine.run_id))
    assert [model.model_id for model in lineage.models] == [mine.run_id]


async def test_a_room_of_the_suite_sees_all_runs(town: Town) -> None:
    runs = {(await bench.start(steps="1")).run_id for bench in (town.alice, town.bob)}
    listed = await town.room.orchestrator.ListRuns(ListRunsRequest())
    assert {run.run_id for run in listed.runs} == runs


async def test_tenants_may_use_the_same_request_id(town: Town) -> None:
    request = StartRunRequest(request_id="1" * 36, recipe="math_rl", overrides={"steps": "1"})
    runs = [(await bench.suite.orchestrator.StartRun(request)).run for bench in (town.alice, town.bob, town.alice)]
    assert runs[0].run_id == runs[2].run_id != runs[1].run_id
    assert [run.tenant for run in runs] == ["alice", "bob", "alice"]


async def test_runs_without_a_request_id_are_different_runs(tmp_path: Path) -> None:
    """As clients that give none start them."""
    database = Database(tmp_path / "runs.db")
    await database.open()
    started = [(await Runs(database).create(_new(run_id, ""))).run_id for run_id in ("a", "b")]
    await database.close()
    assert started == ["a", "b"]


async def test_runs_of_before_there_were_tenants_are_kept_and_are_nobodys(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    config = Config()
    config.set_main_option("script_location", str(Path(store.__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    with create_engine(f"sqlite:///{path}").begin() as connection:
        config.attributes["connection"] = connection
        alembic.command.upgrade(config, "0001")
        values = {
            column.name: {str: "{}", int: 0, bytes: b"", bool: False}[column.type.python_type]
            for column in schema.runs.columns
            if not column.nullable and column.name != "tenant"
        }
        names = ", ".join(values)
        marks = ", ".join(f":{name}" for name in values)
        connection.execute(text(f"INSERT INTO runs ({names}) VALUES ({marks})"), {**values, "run_id": "old"})
    database = Database(path)
    await database.open()
    runs = Runs(database)
    kept = await runs.get("old")
    listed = [[run.run_id for run in (await runs.list_page(RunFilter(tenant=who), 9, ""))[0]] for who in (None, "a")]
    with pytest.raises(NotFound):
        await runs.check_owner("old", "a")
    await database.close()
    assert (kept.tenant, listed) == ("", [["old"], []])


async def test_models_of_one_name_are_counted_for_each_tenant(town: Town) -> None:
    versions = []
    for bench in (town.alice, town.bob, town.alice):
        await bench.finished((await bench.start(steps="1")).run_id)
        listed = await bench.suite.orchestrator.ListModels(ListModelsRequest())
        versions.append(listed.models[0].version)
    assert versions == [1, 1, 2]


async def test_tenants_take_turns_in_having_runs_driven(tmp_path: Path) -> None:
    """R-02: one that starts a hundred runs does not keep the others waiting for a place."""
    database = Database(tmp_path / "runs.db")
    await database.open()
    runs, leases = Runs(database), Leases(database, owner="me", duration_s=60)
    for number in range(6):
        await runs.create(_new(f"noisy-{number}", "noisy"))
    first = await leases.claim(2)
    for number in range(2):
        await runs.create(_new(f"quiet-{number}", "quiet"))
    await runs.create(_new("other-0", "other"))
    then = [await leases.claim(1) for _ in range(5)]
    await database.close()
    assert first == ["noisy-0", "noisy-1"]
    assert then == [["quiet-0"], ["other-0"], ["quiet-1"], ["noisy-2"], ["noisy-3"]]


def _new(run_id: str, tenant: str) -> NewRun:
    return NewRun(
        run_id=run_id,
        request_id="",
        recipe="math_rl",
        config=RecipeConfig(),
        total_steps=1,
        display_name="",
        labels={},
        tenant=tenant,
    )

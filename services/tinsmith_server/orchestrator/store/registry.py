"""Models that runs made, with their lineage, and services that users registered."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Select, delete, func, insert, or_, select

from tinsmith.orchestrator.v1 import RegisteredModel, ServiceEntry
from tinsmith_server.orchestrator.store.clock import now_ns
from tinsmith_server.orchestrator.store.database import Database
from tinsmith_server.orchestrator.store.paging import page, page_length, token_after
from tinsmith_server.orchestrator.store.rows import model_of
from tinsmith_server.orchestrator.store.schema import models, runs, services
from tinsmith_server.serving.errors import AlreadyExists, NotFound


@dataclass(frozen=True, kw_only=True, slots=True)
class NewModel:
    """A model that a run has made."""

    model_id: str
    run_id: str
    display_name: str
    sampler_uri: str
    checkpoint_uri: str
    parents: Sequence[str]
    """Base model and checkpoint URIs that it was made from."""
    dataset_fingerprint: str
    config_sha256: str
    metrics: Mapping[str, float]


class Registry:
    """Models and services of a database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add_model(self, new: NewModel) -> None:
        """Stores a model as the next version of its display name; one that is there already stays as it is."""

        def work(connection: Connection) -> None:
            if connection.scalar(select(models.c.model_id).where(models.c.model_id == new.model_id)):
                return
            owner = select(runs.c.tenant).where(runs.c.run_id == new.run_id).scalar_subquery()
            same_name = _of_tenant(select(func.count()).select_from(models), owner)
            same_name = same_name.where(models.c.display_name == new.display_name)
            version = connection.scalar(same_name) or 0
            connection.execute(insert(models).values(**_values(new), version=version + 1))

        await self._database.write(work, durable=True)

    async def list_models(self, size: int, token: str, tenant: str | None = None) -> tuple[list[RegisteredModel], str]:
        """A page of models, newest first, and the token of the next page, empty on the last; of a tenant or of all."""
        statement = page(_seen_by(tenant), models.c.create_time_ns, models.c.model_id, size, token)
        found = await self._database.read(lambda connection: connection.execute(statement).all())
        shown = found[: page_length(size)]
        token = token_after(shown[-1], "model_id") if len(found) > len(shown) else ""
        return [model_of(row) for row in shown], token

    async def lineage(self, model_id: str, tenant: str | None = None) -> list[RegisteredModel]:
        """The model, then those it came from, each before its own parents. NotFound with reason MODEL_NOT_FOUND.

        A parent is a base model, which is not listed, or a checkpoint of a registered model; with `tenant`, of one of
        that tenant's.
        """

        def work(connection: Connection) -> list[RegisteredModel]:
            found: dict[str, RegisteredModel] = {}
            wanted = [model_id]
            while wanted:
                name = wanted.pop(0)
                columns = (models.c.model_id, models.c.checkpoint_uri, models.c.sampler_uri)
                row = connection.execute(_seen_by(tenant).where(or_(*(column == name for column in columns)))).first()
                if row is not None and row.model_id not in found:
                    found[row.model_id] = model_of(row)
                    wanted += json.loads(row.parents)
            return list(found.values())

        lineage = await self._database.read(work)
        if not lineage:
            message = f"no model {model_id!r}; ListModels shows those there are"
            raise NotFound(message, reason="MODEL_NOT_FOUND", metadata={"model_id": model_id})
        return lineage

    async def register_service(self, entry: ServiceEntry, *, overwrite: bool) -> None:
        """Makes a service known. AlreadyExists with reason SERVICE_EXISTS unless it may replace one of its name."""

        def work(connection: Connection) -> None:
            one = services.c.name == entry.name
            if connection.scalar(select(services.c.name).where(one)) and not overwrite:
                message = f"a service {entry.name!r} is registered already: choose another name or set overwrite"
                raise AlreadyExists(message, reason="SERVICE_EXISTS", metadata={"name": entry.name})
            connection.execute(delete(services).where(one))
            connection.execute(insert(services).values(name=entry.name, kind=entry.kind, address=entry.address))

        await self._database.write(work, durable=True)

    async def unregister_service(self, name: str) -> bool:
        """Forgets a service; whether there was one."""
        statement = delete(services).where(services.c.name == name)
        removed = await self._database.write(lambda connection: connection.execute(statement).rowcount, durable=True)
        return removed > 0

    async def services(self) -> list[ServiceEntry]:
        """The registered services by name."""
        statement = select(services).order_by(services.c.name)
        found = await self._database.read(lambda connection: connection.execute(statement).all())
        return [ServiceEntry(name=row.name, kind=row.kind, address=row.address, registered=True) for row in found]


def _seen_by(tenant: str | None) -> Select[Any]:
    """The models of a tenant's runs; all models without a tenant."""
    return select(models) if tenant is None else _of_tenant(select(models), tenant)


def _of_tenant(statement: Select[Any], tenant: Any) -> Select[Any]:
    return statement.join(runs, models.c.run_id == runs.c.run_id).where(runs.c.tenant == tenant)


def _values(new: NewModel) -> dict[str, object]:
    return {
        "model_id": new.model_id,
        "run_id": new.run_id,
        "display_name": new.display_name,
        "sampler_uri": new.sampler_uri,
        "checkpoint_uri": new.checkpoint_uri,
        "parents": json.dumps(list(new.parents)),
        "dataset_fingerprint": new.dataset_fingerprint,
        "config_sha256": new.config_sha256,
        "metrics": json.dumps(dict(new.metrics)),
        "create_time_ns": now_ns(),
    }

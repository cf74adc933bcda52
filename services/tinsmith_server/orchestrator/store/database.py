"""One SQLite file, spoken to from one thread.

Write-ahead log; metrics are committed with synchronous=NORMAL (0.1 ms; lost only when the machine loses power),
checkpoints and changes of state with FULL (an fsync, 5 ms), which makes everything before them durable too.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import alembic.command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DatabaseError

from tinsmith_server.serving.errors import FailedPrecondition

Result = TypeVar("Result")
Work = Callable[[Connection], Result]

_BUSY_TIMEOUT_MS = 10_000
_WRITES = "tinsmith_writes"


class Database:
    """Runs statements, one transaction at a time. Opened lazily: `open` brings the tables to their present shape."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="database")
        self._normal = _engine(path, "NORMAL")
        self._durable = _engine(path, "FULL")

    async def open(self) -> None:
        """Creates or migrates the file. FailedPrecondition with reason DATABASE_UNUSABLE when that can't be done."""
        await self._on_thread(self._migrate)

    async def read(self, work: Work[Result]) -> Result:
        """What `work` returns of one consistent view."""

        def transaction() -> Result:
            with self._normal.connect() as connection, connection.begin():
                return work(connection)

        return await self._on_thread(transaction)

    async def write(self, work: Work[Result], *, durable: bool = False) -> Result:
        """Commits what `work` does, or nothing of it when it raises. `durable` survives a power failure."""
        engine = self._durable if durable else self._normal

        def transaction() -> Result:
            with engine.connect().execution_options(**{_WRITES: True}) as connection, connection.begin():
                return work(connection)

        return await self._on_thread(transaction)

    async def close(self) -> None:
        await self._on_thread(self._normal.dispose)
        await self._on_thread(self._durable.dispose)
        self._thread.shutdown()

    async def _on_thread(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _migrate(self) -> None:
        config = Config()
        config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
        config.set_main_option("path_separator", "os")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._durable.connect().execution_options(**{_WRITES: True}) as connection, connection.begin():
                config.attributes["connection"] = connection
                alembic.command.upgrade(config, "head")
        except (DatabaseError, CommandError, OSError) as error:
            raise FailedPrecondition(
                f"can't use the database {self._path}: {getattr(error, 'orig', None) or error}; "
                "free space, repair its permissions, or move it away to begin with an empty one",
                reason="DATABASE_UNUSABLE",
            ) from error


def _engine(path: Path, synchronous: str) -> Engine:
    engine = create_engine(f"sqlite:///{path}", connect_args={"check_same_thread": False})

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, record: object) -> None:
        connection.isolation_level = None  # BEGIN is ours: pysqlite would begin too late for a read before a write
        for pragma in (
            f"busy_timeout={_BUSY_TIMEOUT_MS}",
            "journal_mode=WAL",
            f"synchronous={synchronous}",
            "foreign_keys=ON",
        ):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get(_WRITES)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine

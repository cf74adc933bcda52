"""The training states of parked models."""

import shutil
import uuid
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from tinsmith_server.serving.errors import Internal, ServiceError
from tinsmith_server.storage import CheckpointDraft, CheckpointStore, Manifest

_LOOKED_AT_S = 10.0


class ParkedStates:
    """A folder of this process, which ends with it: nobody but the process could use what is in it.

    The folder is locked while its process lives; whoever opens the next one removes those that nobody locks. All
    methods block.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._folder = root / uuid.uuid4().hex
        self._lock = FileLock(self._folder.with_suffix(".lock"), thread_local=False)
        # Whoever needs room parks the models of others: what is parked belongs to the process.
        self._store = CheckpointStore(self._folder, viewer=lambda: None)

    def open(self) -> None:
        """Makes the folder, and removes those that killed processes left."""
        self._root.mkdir(parents=True, exist_ok=True)
        for path in self._root.glob("*.lock"):
            lock = FileLock(path)
            with suppress(Timeout):
                lock.acquire(timeout=0)
                _remove(path)
                lock.release()
        for folder in self._root.iterdir():
            if folder.is_dir() and not folder.with_suffix(".lock").exists():
                shutil.rmtree(folder, ignore_errors=True)  # written when its process had closed it
        self._lock.acquire(timeout=_LOOKED_AT_S)  # another process that starts may just be looking whose it is

    def close(self) -> None:
        """Forgets all states."""
        if self._lock.is_locked:
            _remove(Path(self._lock.lock_file))
            self._lock.release()

    def put(self, draft: CheckpointDraft, files: dict[str, bytes]) -> Manifest:
        """Keeps a model's files; not durably, for they are of no use after the process. Errors as
        `CheckpointStore.stage`."""
        return self._store.publish(draft, files, durable=False, overwrite=True)

    def take(self, state: Manifest) -> dict[str, bytes]:
        """A model's files, verified. Internal with reason PARKED_STATE_LOST when they were taken away or damaged."""
        try:
            return {file.name: self._store.read(state, file.name) for file in state.files}
        except ServiceError as error:
            raise Internal(
                f"the parked state of {state.uri.model_id!r} can't be read; delete the model and create it again from "
                "its last checkpoint",
                reason="PARKED_STATE_LOST",
                metadata={"model_id": state.uri.model_id},
            ) from error

    def drop(self, state: Manifest) -> None:
        """Forgets a state, but no newer one of a model with the same id."""
        self._store.delete(state.uri, version=state.version)


def _remove(lock_file: Path) -> None:
    shutil.rmtree(lock_file.with_suffix(""), ignore_errors=True)
    lock_file.unlink(missing_ok=True)

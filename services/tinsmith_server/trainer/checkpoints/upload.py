"""A checkpoint that comes from elsewhere, piece by piece: nothing is kept in memory, nothing is published before all of
it is checked."""

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tinsmith_server.serving.errors import DataLoss, InvalidArgument, NotFound
from tinsmith_server.storage import (
    TRAINING,
    CheckpointDraft,
    CheckpointFile,
    CheckpointStore,
    CheckpointUri,
    Manifest,
    StagedFile,
    Staging,
)
from tinsmith_server.trainer.checkpoints.adapter_files import CONFIG, OPTIMIZER, WEIGHTS
from tinsmith_server.trainer.checkpoints.foreign_adapter import shape_of_adapter, step_of_optimizer
from tinsmith_server.trainer.checkpoints.peft_config import PeftConfig, read_config
from tinsmith_server.trainer.checkpoints.stored_state import check_finite
from tinsmith_server.trainer.local.bases import LocalBases

_LARGEST_CONFIG = 1 << 20
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True, slots=True)
class NewUpload:
    """What is announced."""

    uri: CheckpointUri
    files: Sequence[CheckpointFile]
    """In the order in which they come."""
    base_model: str
    """Empty: as the adapter's configuration names it."""
    user_metadata: Mapping[str, str]
    overwrite: bool

    def check(self, largest_bytes: int) -> None:
        """InvalidArgument with reason BAD_UPLOAD or UPLOAD_TOO_LARGE."""
        names = [file.name for file in self.files]
        optional = {OPTIMIZER} if self.uri.kind == TRAINING else set()
        if len(set(names)) != len(names) or not {CONFIG, WEIGHTS} <= set(names) <= {CONFIG, WEIGHTS} | optional:
            wanted = f"{CONFIG} and {WEIGHTS}" + "".join(f", with or without {name}" for name in optional)
            raise bad_upload(f"a {self.uri.kind} checkpoint has the files {wanted}, each once", "header.files")
        if any(file.size_bytes <= 0 or not _SHA256.fullmatch(file.sha256) for file in self.files):
            raise bad_upload("each file needs a size above 0 and a SHA-256 of 64 hexadecimal digits", "header.files")
        config_bytes = next(file.size_bytes for file in self.files if file.name == CONFIG)
        if sum(file.size_bytes for file in self.files) > largest_bytes or config_bytes > _LARGEST_CONFIG:
            raise InvalidArgument(
                f"this server takes at most {largest_bytes} bytes (setting max_upload_bytes), and {_LARGEST_CONFIG} of "
                f"{CONFIG}",
                reason="UPLOAD_TOO_LARGE",
                metadata={"max_upload_bytes": str(largest_bytes)},
                violations=[("header.files", f"must be at most {largest_bytes} bytes together")],
            )


class Upload:
    """One upload under way. Whoever began it finishes or discards it."""

    def __init__(self, new: NewUpload, store: CheckpointStore, staging: Staging) -> None:
        self._new, self._store, self._staging = new, store, staging
        self._coming = list(reversed(new.files))
        """Files that are not complete; the present one is last."""
        self._file: StagedFile | None = None

    @classmethod
    async def begin(cls, new: NewUpload, store: CheckpointStore) -> "Upload":
        """Makes room for the files. Errors as `CheckpointStore.stage`."""
        staging = await asyncio.to_thread(store.stage, new.uri, durable=True, overwrite=new.overwrite)
        return cls(new, store, staging)

    async def take(self, name: str, offset: int, data: bytes) -> None:
        """Writes a piece where the one before ended. InvalidArgument with reason BAD_UPLOAD; DataLoss with reason
        CHECKSUM_MISMATCH behind the last piece of a file; ResourceExhausted with reason STORAGE_FULL."""
        expected = self._coming[-1] if self._coming else None
        written = self._file.size_bytes if self._file else 0
        if expected is None or name != expected.name or offset != written:
            place = f"{expected.name} at {written}" if expected else "nothing more"
            raise bad_upload(f"a piece of {name} at {offset} came, {place} was announced", "piece.offset")
        if written + len(data) > expected.size_bytes:
            raise bad_upload(f"{name} has more than the {expected.size_bytes} bytes of the header", "piece.data")
        await asyncio.to_thread(self._write, expected, data)

    async def finish(self, bases: LocalBases) -> Manifest:
        """Checks what came and publishes it. InvalidArgument with reason BAD_UPLOAD when something is missing; DataLoss
        with reason WEIGHTS_NOT_FINITE or CHECKPOINT_CORRUPT; NotFound with reason BASE_MODEL_NOT_FOUND;
        FailedPrecondition with reason ADAPTER_UNSUPPORTED or CHECKPOINT_MISMATCH; and as `CheckpointStore.commit`."""
        if self._coming:
            raise bad_upload(f"the stream ended before the end of {self._coming[-1].name}", "piece")
        return await asyncio.to_thread(self._publish, bases)

    async def discard(self) -> None:
        """Leaves nothing of it, also when the call is cancelled meanwhile."""
        await asyncio.shield(asyncio.get_running_loop().run_in_executor(None, self._staging.discard))

    def _write(self, expected: CheckpointFile, data: bytes) -> None:
        if self._file is None:
            self._file = self._staging.open(expected.name)
        self._file.write(data)
        if self._file.size_bytes < expected.size_bytes:
            return
        came = self._file.finish()
        if came != expected:
            raise DataLoss(
                f"{came.name} is not what was announced: its SHA-256 is {came.sha256}; send the checkpoint again",
                reason="CHECKSUM_MISMATCH",
                metadata={"file": came.name, "sha256": came.sha256},
            )
        self._staging.files.append(came)
        self._coming.pop()
        self._file = None

    def _publish(self, bases: LocalBases) -> Manifest:
        folder, new = self._staging.folder, self._new
        for file in new.files:
            check_finite(folder / file.name, new.uri)
        config = read_config((folder / CONFIG).read_bytes())
        base = bases.base(_base_model(new, config))
        shape = shape_of_adapter(config, folder / WEIGHTS, base)
        has_optimizer = any(file.name == OPTIMIZER for file in new.files)
        draft = CheckpointDraft(
            uri=new.uri,
            step=step_of_optimizer(folder / OPTIMIZER, base.matrices(shape), shape.rank) if has_optimizer else 0,
            base_model=base.name,
            lora=shape,
            user_metadata=new.user_metadata,
        )
        return self._store.commit(self._staging, draft, overwrite=new.overwrite)


def bad_upload(problem: str, field: str) -> InvalidArgument:
    """The error of messages that are not an upload."""
    return InvalidArgument(
        f"the upload is not as it should be: {problem}", reason="BAD_UPLOAD", violations=[(field, problem)]
    )


def _base_model(new: NewUpload, config: PeftConfig) -> str:
    name = new.base_model or config.base_model
    if not name:
        raise NotFound(
            f"neither the header nor {CONFIG} names a base model; set base_model in the header",
            reason="BASE_MODEL_NOT_FOUND",
        )
    return name

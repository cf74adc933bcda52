"""A checkpoint while it is written: a hidden folder that nobody sees until it is published."""

import hashlib
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from threading import Lock

from tinsmith_server.storage import files as disk
from tinsmith_server.storage.manifest import CheckpointFile


class StagedFile:
    """One file, written piece by piece. All methods block."""

    def __init__(self, path: Path, *, durable: bool) -> None:
        self._file = path.open("xb")
        self._durable = durable
        self._checksum = hashlib.sha256()
        self.size_bytes = 0
        """What has been written so far."""

    def write(self, piece: bytes) -> None:
        """Appends. ResourceExhausted with reason STORAGE_FULL."""
        with disk.storage_errors():
            self._file.write(piece)
        self._checksum.update(piece)
        self.size_bytes += len(piece)

    def give_up(self) -> None:
        """Closes the file, whatever becomes of what was written."""
        with suppress(OSError):
            self._file.close()

    def finish(self) -> CheckpointFile:
        """The file's entry; if durable, it is on the disk then."""
        with disk.storage_errors():
            self._file.flush()
            if self._durable:
                os.fsync(self._file.fileno())
            self._file.close()
        name = Path(self._file.name).name
        return CheckpointFile(name=name, size_bytes=self.size_bytes, sha256=self._checksum.hexdigest())


class Staging:
    """The files of a checkpoint to come. All methods block."""

    def __init__(self, folder: Path, *, version: str, durable: bool) -> None:
        self.folder, self.version, self.durable = folder, version, durable
        self.files: list[CheckpointFile] = []
        self.publishing = Lock()
        """Held while something is made in the folder, while it gets its name, and while it is removed."""
        self.is_published = self.is_discarded = False
        self._open: StagedFile | None = None
        with disk.storage_errors():
            folder.mkdir(parents=True)

    def open(self, name: str) -> StagedFile:
        """A new file. The caller adds what `StagedFile.finish` returns to `files`."""
        with self.publishing, disk.storage_errors():
            self._open = StagedFile(self.folder / name, durable=self.durable)
            return self._open

    def add(self, name: str, pieces: Iterable[bytes]) -> None:
        """Writes a whole file. ResourceExhausted with reason STORAGE_FULL."""
        file = self.open(name)
        for piece in pieces:
            file.write(piece)
        self.files.append(file.finish())

    def discard(self) -> None:
        """Removes what was written, unless it was published meanwhile by a thread that nobody waits for any more."""
        with self.publishing:
            if self.is_published:
                return
            self.is_discarded = True
            if self._open is not None:
                self._open.give_up()
            disk.remove_folder(self.folder)

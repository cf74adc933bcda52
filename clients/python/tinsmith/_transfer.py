"""Files of checkpoints on their way, whoever carries them: what sync and asyncio clients share."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import grpc

from tinsmith._errors import TinsmithError
from tinsmith.trainer.v1 import Checkpoint, CheckpointFile, UploadCheckpointRequest, UploadHeader, UploadPiece

PIECE_BYTES = 1 << 20
FILES = ("adapter_config.json", "adapter_model.safetensors", "optimizer.safetensors")
"""What a checkpoint may hold, in the order in which it is sent."""

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all)."""


class ArrivingFile:
    """A file that is being downloaded, NAME.part in its folder until it is complete.

    What an earlier download left of it is kept; `size_bytes` says where to go on.
    """

    def __init__(self, folder: Path, file: CheckpointFile, told: Callable[[int], None]) -> None:
        if Path(file.name).name != file.name or file.name in ("", ".", ".."):
            raise ValueError(f"the server names a file {file.name!r}, which is not in the folder: nothing is written")
        self.name = file.name
        self._expected, self._told = file, told
        self._path = folder / file.name
        self._part = folder / f"{file.name}.part"
        self._checksum = hashlib.sha256()
        self.size_bytes = 0
        if self._part.exists() and self._part.stat().st_size > file.size_bytes:
            self._part.unlink()  # it is of another file
        for piece in _pieces(self._part):
            self._count(piece)
        self._file = self._part.open("ab")

    def write(self, data: bytes) -> None:
        """Appends a piece."""
        self._file.write(data)
        self._count(data)

    def finish(self) -> None:
        """Gives the file its name. TinsmithError with reason CHECKSUM_MISMATCH when it is not what was announced; it is
        removed then, so that another download begins anew."""
        self._file.close()
        found = self._checksum.hexdigest()
        if found != self._expected.sha256:
            self._part.unlink()
            raise TinsmithError(
                f"{self.name} did not arrive as it was announced: its SHA-256 is {found}; download it again",
                code=grpc.StatusCode.DATA_LOSS,
                reason="CHECKSUM_MISMATCH",
                metadata={"file": self.name},
            )
        self._part.replace(self._path)

    def close(self) -> None:
        """Keeps what has arrived."""
        self._file.close()

    def _count(self, data: bytes) -> None:
        self._checksum.update(data)
        self.size_bytes += len(data)
        self._told(len(data))


def arriving(folder: Path, checkpoint: Checkpoint, progress: Progress | None) -> Iterator[ArrivingFile]:
    """The files of a checkpoint that are not in the folder yet, one after the other."""
    folder.mkdir(parents=True, exist_ok=True)
    told = _counter(sum(file.size_bytes for file in checkpoint.files), progress)
    for file in checkpoint.files:
        if (folder / file.name).is_file() and _sha256(folder / file.name) == file.sha256:
            told(file.size_bytes)
        else:
            yield ArrivingFile(folder, file, told)


def upload_messages(
    folder: Path,
    uri: str,
    *,
    base_model: str,
    user_metadata: Mapping[str, str],
    overwrite: bool,
    progress: Progress | None,
) -> Iterator[UploadCheckpointRequest]:
    """The messages that upload a folder: the header, then the files. FileNotFoundError when it holds no adapter."""
    names = [name for name in FILES if (folder / name).is_file()]
    if "/sampler/" in uri:
        names = [name for name in names if name != FILES[2]]
    if not {*FILES[:2]} <= {*names}:
        raise FileNotFoundError(f"{folder} holds no adapter: {FILES[0]} and {FILES[1]} must be there")
    files = [
        CheckpointFile(name=name, size_bytes=(folder / name).stat().st_size, sha256=_sha256(folder / name))
        for name in names
    ]
    header = UploadHeader(uri=uri, files=files, base_model=base_model, user_metadata=user_metadata, overwrite=overwrite)
    told = _counter(sum(file.size_bytes for file in files), progress)
    return _messages(folder, header, told)


def _messages(folder: Path, header: UploadHeader, told: Callable[[int], None]) -> Iterator[UploadCheckpointRequest]:
    yield UploadCheckpointRequest(header=header)
    for file in header.files:
        offset = 0
        for data in _pieces(folder / file.name):
            yield UploadCheckpointRequest(piece=UploadPiece(name=file.name, offset=offset, data=data))
            offset += len(data)
            told(len(data))


def _counter(total: int, progress: Progress | None) -> Callable[[int], None]:
    done = 0

    def told(size: int) -> None:
        nonlocal done
        done += size
        if progress is not None:
            progress(done, total)

    return told


def _sha256(path: Path) -> str:
    checksum = hashlib.sha256()
    for piece in _pieces(path):
        checksum.update(piece)
    return checksum.hexdigest()


def _pieces(path: Path) -> Iterator[bytes]:
    """A file's content; nothing when there is no such file."""
    if not path.exists():
        return
    with path.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            yield piece

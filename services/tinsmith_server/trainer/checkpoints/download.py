"""A checkpoint's files, read piece by piece."""

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import closing

from tinsmith_server.serving.errors import InvalidArgument
from tinsmith_server.storage import CheckpointFile, CheckpointStore, Manifest


def files_from(manifest: Manifest, name: str, offset: int) -> Sequence[CheckpointFile]:
    """The file of this name, or all of them when it is empty. InvalidArgument with reason BAD_OFFSET when there is none
    such or it ends before `offset`."""
    if not name and not offset:
        return manifest.files
    found = [file for file in manifest.files if file.name == name and offset <= file.size_bytes]
    if not found:
        raise InvalidArgument(
            f"{manifest.uri} has no {name or 'file without a name'} with a byte {offset}",
            reason="BAD_OFFSET",
            metadata={"file": name, "offset": str(offset)},
            violations=[("offset", "must be in the file")],
        )
    return found


async def pieces_from(
    store: CheckpointStore, manifest: Manifest, file: CheckpointFile, start: int
) -> AsyncGenerator[tuple[int, bytes], None]:
    """(place, piece) of a file from `start` on, at least one. What lies before is read too, to be checked. Errors as
    `CheckpointStore.pieces`."""
    offset, last = 0, None
    with closing(store.pieces(manifest, file.name)) as pieces:
        while piece := await _next(pieces):
            if offset + len(piece) > start:
                last = max(start, offset)
                yield last, piece[last - offset :]
            offset += len(piece)
    if last is None:
        yield start, b""


async def _next(pieces: Iterator[bytes]) -> bytes:
    """The next piece, empty behind the last. Whoever gives up waits for the thread, which has the file."""
    reading = asyncio.ensure_future(asyncio.to_thread(next, pieces, b""))
    try:
        return await asyncio.shield(reading)
    except asyncio.CancelledError:
        await asyncio.wait([reading])
        raise

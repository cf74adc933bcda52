"""Checkpoints between a folder and a suite, for asyncio; see `_checkpoints.py`, which says what the calls promise."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from tinsmith._errors import TinsmithError
from tinsmith._resume import Patience
from tinsmith._transfer import ArrivingFile, Progress, arriving, upload_messages
from tinsmith.trainer.v1 import Checkpoint, DownloadCheckpointRequest, GetCheckpointRequest, UploadCheckpointRequest

if TYPE_CHECKING:
    from tinsmith.aio import Suite


async def download_checkpoint(
    suite: "Suite", uri: str, folder: str | Path, *, progress: Progress | None = None
) -> Checkpoint:
    """`tinsmith.download_checkpoint` for asyncio; `progress` is called in a thread."""
    checkpoint = (await suite.checkpoints.GetCheckpoint(GetCheckpointRequest(uri=uri))).checkpoint
    files = arriving(Path(folder), checkpoint, progress)
    while file := await asyncio.to_thread(next, files, None):
        with closing(file):
            await _fetch(suite, checkpoint.uri, file)
            await asyncio.to_thread(file.finish)
    return checkpoint


async def upload_checkpoint(
    suite: "Suite",
    folder: str | Path,
    uri: str,
    *,
    base_model: str = "",
    user_metadata: Mapping[str, str] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Checkpoint:
    """`tinsmith.upload_checkpoint` for asyncio; `progress` is called in a thread."""
    messages = await asyncio.to_thread(
        upload_messages,
        Path(folder),
        uri,
        base_model=base_model,
        user_metadata=user_metadata or {},
        overwrite=overwrite,
        progress=progress,
    )
    return (await suite.checkpoints.UploadCheckpoint(_without_blocking(messages), timeout=None)).checkpoint


async def _fetch(suite: "Suite", uri: str, file: ArrivingFile) -> None:
    patience = Patience()
    while True:
        request = DownloadCheckpointRequest(uri=uri, file=file.name, offset=file.size_bytes)
        try:
            async for piece in suite.checkpoints.DownloadCheckpoint(request):
                patience.renew()
                await asyncio.to_thread(file.write, piece.data)
            return
        except TinsmithError as error:
            if not patience.allows(error):
                raise
            await asyncio.sleep(patience.pause_s)


async def _without_blocking(messages: Iterator[UploadCheckpointRequest]) -> AsyncIterator[UploadCheckpointRequest]:
    while message := await asyncio.to_thread(next, messages, None):
        yield message

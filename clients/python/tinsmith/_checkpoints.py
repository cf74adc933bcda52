"""Checkpoints between a folder and a suite, for programs without asyncio."""

import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from tinsmith._errors import TinsmithError
from tinsmith._resume import Patience
from tinsmith._transfer import ArrivingFile, Progress, arriving, upload_messages
from tinsmith.trainer.v1 import Checkpoint, DownloadCheckpointRequest, GetCheckpointRequest

if TYPE_CHECKING:
    from tinsmith._sync import Suite


def download_checkpoint(
    suite: "Suite", uri: str, folder: str | Path, *, progress: Progress | None = None
) -> Checkpoint:
    """Downloads a checkpoint's files into a folder, which is then one that PEFT opens; the checkpoint.

    Each file is checked against its checksum before it gets its name. A broken stream is resumed where it broke, and so
    is an earlier download into the same folder. `uri` may name "latest". Raises TinsmithError, with reason
    CHECKSUM_MISMATCH for a file that arrived damaged; UNAVAILABLE when the trainer stays away for a minute.
    """
    checkpoint = suite.checkpoints.GetCheckpoint(GetCheckpointRequest(uri=uri)).checkpoint
    for file in arriving(Path(folder), checkpoint, progress):
        with closing(file):
            _fetch(suite, checkpoint.uri, file)
            file.finish()
    return checkpoint


def upload_checkpoint(
    suite: "Suite",
    folder: str | Path,
    uri: str,
    *,
    base_model: str = "",
    user_metadata: Mapping[str, str] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Checkpoint:
    """Uploads a PEFT adapter, or a checkpoint that was downloaded, from a folder; the checkpoint it has become.

    `uri` says where it is to be published, `base_model` which of the trainer's base models it belongs to; empty takes
    what the adapter's configuration says. FileNotFoundError when the folder holds no adapter; TinsmithError as
    `CheckpointService.UploadCheckpoint` says.
    """
    messages = upload_messages(
        Path(folder),
        uri,
        base_model=base_model,
        user_metadata=user_metadata or {},
        overwrite=overwrite,
        progress=progress,
    )
    return suite.checkpoints.UploadCheckpoint(messages, timeout=None).checkpoint


def _fetch(suite: "Suite", uri: str, file: ArrivingFile) -> None:
    patience = Patience()
    while True:
        request = DownloadCheckpointRequest(uri=uri, file=file.name, offset=file.size_bytes)
        try:
            for piece in suite.checkpoints.DownloadCheckpoint(request):
                patience.renew()
                file.write(piece.data)
            return
        except TinsmithError as error:
            if not patience.allows(error):
                raise
            time.sleep(patience.pause_s)

"""Checkpoints larger than memory should be: the server reads and writes them piece by piece."""

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.storage.drafts import draft
from tests.trainer.killable import killable_trainer, peak_bytes, resident_bytes
from tinsmith import TinsmithError
from tinsmith.aio import Suite, download_checkpoint
from tinsmith.trainer.v1 import (
    CheckpointFile,
    CreateModelRequest,
    UploadCheckpointRequest,
    UploadHeader,
    UploadPiece,
    VerifyCheckpointRequest,
)
from tinsmith_server.storage import CheckpointFile as StoredFile
from tinsmith_server.storage import CheckpointStore

WEIGHTS = "adapter_model.safetensors"
SIZE = 1 << 30
GROWTH = 100 << 20
PIECE = bytes(1 << 20)
pytestmark = pytest.mark.slow


def zeros_sha256() -> str:
    checksum = hashlib.sha256()
    for _ in range(SIZE // len(PIECE)):
        checksum.update(PIECE)
    return checksum.hexdigest()


def store_sparse(root: Path) -> str:
    """A checkpoint of one sparse file; its URI."""
    store = CheckpointStore(root)
    new = draft("zeros", model="big", kind="sampler")
    staging = store.stage(new.uri, durable=False)
    with (staging.folder / WEIGHTS).open("wb") as file:
        file.truncate(SIZE)
    staging.files.append(StoredFile(name=WEIGHTS, size_bytes=SIZE, sha256=zeros_sha256()))
    return str(store.commit(staging, new).uri)


async def test_a_download_of_a_gigabyte_takes_little_memory(tmp_path: Path, model_directory: Path) -> None:
    """R-13"""
    uri = store_sparse(tmp_path / "checkpoints")
    async with (
        killable_trainer(tmp_path, base_models=[f"random={model_directory}"]) as trainer,
        Suite.connect(trainer=trainer.address, wait_for_ready=True) as suite,
    ):
        before = await warm(suite, trainer.pid)
        told: list[int] = []
        await download_checkpoint(suite, uri, tmp_path / "folder", progress=lambda done, total: told.append(done))
        with pytest.raises(TinsmithError) as refused:
            await suite.checkpoints.VerifyCheckpoint(VerifyCheckpointRequest(uri=uri))
        assert refused.value.reason == "CHECKPOINT_CORRUPT", "whole, but no file of tensors"
        assert peak_bytes(trainer.pid) - before < GROWTH
    assert (tmp_path / "folder" / WEIGHTS).stat().st_size == told[-1] == SIZE
    assert len(told) >= SIZE >> 20
    (tmp_path / "folder" / WEIGHTS).unlink()


async def test_an_upload_of_a_gigabyte_takes_little_memory(tmp_path: Path, model_directory: Path) -> None:
    """R-13"""
    config = b'{"peft_type": "LORA", "r": 4, "lora_alpha": 4}'
    files = [
        CheckpointFile(name="adapter_config.json", size_bytes=len(config), sha256=hashlib.sha256(config).hexdigest()),
        CheckpointFile(name=WEIGHTS, size_bytes=SIZE, sha256=zeros_sha256()),
    ]

    async def messages() -> AsyncIterator[UploadCheckpointRequest]:
        yield UploadCheckpointRequest(header=UploadHeader(uri="tinsmith://big/sampler/zeros", files=files))
        yield UploadCheckpointRequest(piece=UploadPiece(name="adapter_config.json", data=config))
        for offset in range(0, SIZE, len(PIECE)):
            yield UploadCheckpointRequest(piece=UploadPiece(name=WEIGHTS, offset=offset, data=PIECE))

    async with (
        killable_trainer(tmp_path, base_models=[f"random={model_directory}"]) as trainer,
        Suite.connect(trainer=trainer.address, wait_for_ready=True) as suite,
    ):
        before = await warm(suite, trainer.pid)
        with pytest.raises(TinsmithError) as refused:
            await suite.checkpoints.UploadCheckpoint(messages())
        assert refused.value.reason == "CHECKPOINT_CORRUPT", "all of it came, and it is no file of tensors"
        assert peak_bytes(trainer.pid) - before < GROWTH
    assert not list((tmp_path / "checkpoints" / "big" / "sampler").iterdir())


async def warm(suite: Suite, pid: int) -> int:
    """The trainer's memory after its first call."""
    while True:
        try:
            await suite.trainer.CreateModel(CreateModelRequest(base_model="random"))
            return resident_bytes(pid)
        except TinsmithError as error:
            if error.reason != "NOT_READY":
                raise

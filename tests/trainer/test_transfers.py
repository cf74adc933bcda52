"""Checkpoints to and from a client's folder, by the client's helpers."""

import asyncio
import hashlib
import threading
from collections.abc import Generator
from contextlib import aclosing
from pathlib import Path
from typing import cast

import pytest

import tinsmith
from tests.support import serving
from tests.trainer.calls import create
from tests.trainer.saving import save, save_weights, state, train
from tinsmith import TinsmithError
from tinsmith.aio import Suite, download_checkpoint, upload_checkpoint
from tinsmith.trainer.v1 import (
    Checkpoint,
    CheckpointFile,
    CreateModelRequest,
    DownloadCheckpointRequest,
)
from tinsmith_server.storage import CheckpointFile as ServerFile
from tinsmith_server.storage import CheckpointStore, Manifest
from tinsmith_server.trainer import ROOM
from tinsmith_server.trainer.checkpoints.download import pieces_from

URI = "tinsmith://elsewhere/training/uploaded"
CONFIG, WEIGHTS, OPTIMIZER = "adapter_config.json", "adapter_model.safetensors", "optimizer.safetensors"


def contents(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


async def test_a_checkpoint_goes_there_and_back_again(suite: Suite, tmp_path: Path) -> None:
    """R-13; training goes on from the upload as from the original."""
    model = await create(suite)
    await train(suite, model, 2)
    saved = await save(suite, model)
    told: list[tuple[int, int]] = []
    assert (
        await download_checkpoint(suite, saved.uri, tmp_path / "folder", progress=lambda *at: told.append(at)) == saved
    )
    assert contents(tmp_path / "folder") == state(saved)
    assert told[-1] == (sum(file.size_bytes for file in saved.files),) * 2
    uploaded = await upload_checkpoint(suite, tmp_path / "folder", URI, user_metadata={"from": "afar"})
    assert (uploaded.uri, uploaded.step, dict(uploaded.user_metadata)) == (URI, 2, {"from": "afar"})
    assert (state(uploaded), uploaded.base_model) == (state(saved), "random")
    request = CreateModelRequest(checkpoint_uri=URI, load_optimizer=True)
    again = (await suite.trainer.CreateModel(request)).model
    for each in (model, again):
        await train(suite, each, 1)
    assert state(await save(suite, again))[WEIGHTS] == state(await save(suite, model))[WEIGHTS]


async def test_clients_without_asyncio_do_the_same(suite: Suite, tmp_path: Path) -> None:
    model = await create(suite)
    saved = await save(suite, model)

    def there_and_back() -> Checkpoint:
        with tinsmith.Suite.connect(trainer=suite.addresses.trainer) as client:
            latest = f"tinsmith://{model.model_id}/training/latest"
            assert tinsmith.download_checkpoint(client, latest, tmp_path / "folder") == saved
            return tinsmith.upload_checkpoint(client, tmp_path / "folder", "tinsmith://elsewhere/sampler/weights")

    uploaded = await asyncio.to_thread(there_and_back)
    assert state(uploaded) == {name: sum for name, sum in state(saved).items() if name != OPTIMIZER}


async def test_a_download_goes_on_where_an_earlier_one_broke(suite: Suite, tmp_path: Path) -> None:
    model = await create(suite)
    saved = await save(suite, model)
    await download_checkpoint(suite, saved.uri, tmp_path / "whole")
    folder = tmp_path / "broken"
    folder.mkdir()
    (folder / CONFIG).write_bytes((tmp_path / "whole" / CONFIG).read_bytes())
    (folder / f"{WEIGHTS}.part").write_bytes((tmp_path / "whole" / WEIGHTS).read_bytes()[:5000])
    told: list[tuple[int, int]] = []
    await download_checkpoint(suite, saved.uri, folder, progress=lambda *at: told.append(at))
    assert contents(folder) == state(saved)
    config, weights = (folder / CONFIG).stat().st_size, (folder / WEIGHTS).stat().st_size
    assert [done for done, _ in told][:3] == [config, config + 5000, config + weights]


async def test_part_of_something_else_is_not_taken_for_the_file(suite: Suite, tmp_path: Path) -> None:
    saved = await save(suite, await create(suite))
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / f"{WEIGHTS}.part").write_bytes(b"what a download of other weights left")
    with pytest.raises(TinsmithError) as refused:
        await download_checkpoint(suite, saved.uri, folder)
    assert refused.value.reason == "CHECKSUM_MISMATCH"
    await download_checkpoint(suite, saved.uri, folder)
    assert contents(folder) == state(saved)


async def test_more_than_the_file_has_is_not_taken_for_part_of_it(suite: Suite, tmp_path: Path) -> None:
    saved = await save(suite, await create(suite))
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / f"{CONFIG}.part").write_bytes(b"x" * 100_000)
    await download_checkpoint(suite, saved.uri, folder)
    assert contents(folder) == state(saved)


class SlowStore:
    """Reads a piece when it is allowed to."""

    def __init__(self) -> None:
        self.reading, self.may_read, self.is_closed = threading.Event(), threading.Event(), False

    def pieces(self, manifest: Manifest, name: str) -> Generator[bytes, None, None]:
        try:
            self.reading.set()
            self.may_read.wait(20)
            yield b"piece"
        finally:
            self.is_closed = True


async def test_a_download_that_is_given_up_while_it_reads_closes_its_file() -> None:
    store, file = SlowStore(), ServerFile(name=WEIGHTS, size_bytes=5, sha256="")

    async def download() -> None:
        async with aclosing(pieces_from(cast("CheckpointStore", store), cast("Manifest", None), file, 0)) as pieces:
            async for _ in pieces:
                pass

    downloading = asyncio.create_task(download())
    await asyncio.to_thread(store.reading.wait, 20)
    downloading.cancel()
    await asyncio.sleep(0)
    store.may_read.set()
    with pytest.raises(asyncio.CancelledError):
        await downloading
    assert store.is_closed


async def test_a_broken_stream_is_resumed(tmp_path: Path, model_directory: Path) -> None:
    """The trainer goes away in mid-stream and comes back at the same address."""
    settings = {"base_models": (f"random={model_directory}",), "address": f"unix:{tmp_path}/trainer", "drain_s": 0.0}
    async with serving(ROOM, tmp_path, **settings) as address, Suite.connect(trainer=address) as suite:
        model = await create(suite)
        saved = await save(suite, model)
        big = tmp_path / "checkpoints" / "big"
    store_big(big.parent, megabytes=24)
    broken = asyncio.Event()
    progress = lambda done, total: done > 3 << 20 and not broken.is_set() and broken.set()  # noqa: E731
    async with Suite.connect(trainer=f"unix:{tmp_path}/trainer", wait_for_ready=True) as suite:
        async with serving(ROOM, tmp_path, **settings):
            fetching = asyncio.create_task(
                download_checkpoint(suite, "tinsmith://big/sampler/zeros", tmp_path / "folder", progress=progress)
            )
            await broken.wait()
        async with serving(ROOM, tmp_path, **settings):
            async with asyncio.timeout(60):
                await fetching
    assert (tmp_path / "folder" / WEIGHTS).stat().st_size == 24 << 20
    assert saved.uri


def store_big(root: Path, *, megabytes: int) -> None:
    """A checkpoint of zeros, which no model could load."""
    from tests.storage.drafts import draft

    content = bytes(megabytes << 20)
    CheckpointStore(root).publish(draft("zeros", model="big", kind="sampler"), {WEIGHTS: content}, durable=False)


async def test_a_place_that_is_not_there_is_refused(suite: Suite) -> None:
    saved = await save(suite, await create(suite))
    size = next(file.size_bytes for file in saved.files if file.name == WEIGHTS)
    for file, offset in ((WEIGHTS, size + 1), ("../manifest.json", 0), ("manifest.json", 0), ("", 5)):
        with pytest.raises(TinsmithError) as refused:
            async for _ in suite.checkpoints.DownloadCheckpoint(
                DownloadCheckpointRequest(uri=saved.uri, file=file, offset=offset)
            ):
                pass
        assert (refused.value.code.name, refused.value.reason) == ("INVALID_ARGUMENT", "BAD_OFFSET")
    at_end = DownloadCheckpointRequest(uri=saved.uri, file=WEIGHTS, offset=size)
    pieces = [piece async for piece in suite.checkpoints.DownloadCheckpoint(at_end)]
    assert [(piece.file.name, piece.offset, piece.data) for piece in pieces] == [(WEIGHTS, size, b"")]


@pytest.mark.parametrize("offset", [0, 4000])
async def test_damage_is_told_behind_the_pieces_and_the_client_keeps_none_of_it(
    suite: Suite, tmp_path: Path, offset: int
) -> None:
    saved = await save(suite, await create(suite))
    path = tmp_path / "checkpoints" / saved.uri.removeprefix("tinsmith://") / WEIGHTS
    content = bytearray(path.read_bytes())
    content[2000] ^= 1
    path.write_bytes(content)
    with pytest.raises(TinsmithError) as refused:
        async for _ in suite.checkpoints.DownloadCheckpoint(
            DownloadCheckpointRequest(uri=saved.uri, file=WEIGHTS, offset=offset)
        ):
            pass
    assert (refused.value.code.name, refused.value.reason) == ("DATA_LOSS", "CHECKPOINT_CORRUPT")
    with pytest.raises(TinsmithError):
        await download_checkpoint(suite, saved.uri, tmp_path / "folder")
    assert not (tmp_path / "folder" / WEIGHTS).exists()


@pytest.mark.parametrize("name", ["../escaped", "/tmp/escaped", "..", "a/b", ""])
def test_a_client_writes_nothing_outside_its_folder(tmp_path: Path, name: str) -> None:
    """R-13: a server that names files elsewhere."""
    from tinsmith._transfer import arriving

    hostile = Checkpoint(files=[CheckpointFile(name=name, size_bytes=1, sha256="0" * 64)])
    with pytest.raises(ValueError, match="nothing is written"):
        next(arriving(tmp_path / "folder", hostile, None))
    assert not list((tmp_path / "folder").iterdir())
    assert not (tmp_path / "escaped").exists()


async def test_sampler_weights_are_downloaded_like_any(suite: Suite, tmp_path: Path) -> None:
    saved = await save_weights(suite, await create(suite))
    await download_checkpoint(suite, saved.uri, tmp_path / "folder")
    assert contents(tmp_path / "folder") == state(saved)


def test_a_folder_without_an_adapter_is_not_uploaded(tmp_path: Path) -> None:
    with tinsmith.Suite.connect(trainer="127.0.0.1:1") as client, pytest.raises(FileNotFoundError, match="no adapter"):
        tinsmith.upload_checkpoint(client, tmp_path, URI)

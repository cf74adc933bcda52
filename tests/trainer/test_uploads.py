"""Uploads that are none, broken off, or too large: a typed error each, and nothing left of them."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import grpc
import pytest
import safetensors.torch
import torch

from tests.support import serving
from tests.trainer.calls import create
from tests.trainer.saving import eventually, save, state
from tinsmith import TinsmithError
from tinsmith.aio import Suite, download_checkpoint, upload_checkpoint
from tinsmith.trainer.v1 import (
    CheckpointFile,
    CheckpointServiceStub,
    ListCheckpointsRequest,
    UploadCheckpointRequest,
    UploadHeader,
    UploadPiece,
)
from tinsmith_server.trainer import ROOM

URI = "tinsmith://elsewhere/training/uploaded"
CONFIG, WEIGHTS, OPTIMIZER = "adapter_config.json", "adapter_model.safetensors", "optimizer.safetensors"


async def folder_of(suite: Suite, tmp_path: Path) -> Path:
    """A downloaded training checkpoint."""
    saved = await save(suite, await create(suite))
    await download_checkpoint(suite, saved.uri, tmp_path / "folder")
    return tmp_path / "folder"


def entry(name: str, content: bytes) -> CheckpointFile:
    return CheckpointFile(name=name, size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


def header(files: dict[str, bytes], uri: str = URI, **fields: Any) -> UploadCheckpointRequest:
    entries = [entry(name, content) for name, content in files.items()]
    return UploadCheckpointRequest(header=UploadHeader(uri=uri, files=entries, **fields))


def pieces(files: dict[str, bytes]) -> list[UploadCheckpointRequest]:
    return [UploadCheckpointRequest(piece=UploadPiece(name=name, data=content)) for name, content in files.items()]


def odd_configs(content: bytes) -> list[bytes]:
    config = json.loads(content)
    odd = ({"base_model_name_or_path": 5}, {"base_model_name_or_path": ["a"]}, {"r": 10**400, "use_rslora": True})
    return [json.dumps({**config, **fields}).encode() for fields in odd]


def odd_optimizers(content: bytes) -> list[bytes]:
    """Steps that no optimizer has taken."""
    tensors = safetensors.torch.load(content)
    steps = (torch.tensor([1e30], dtype=torch.float64), torch.tensor([-1]), torch.tensor([1 << 62]))
    return [safetensors.torch.save({**tensors, "step": step}) for step in steps]


async def refusal(suite: Suite, messages: Iterable[UploadCheckpointRequest]) -> tuple[str, str]:
    async def stream() -> AsyncIterator[UploadCheckpointRequest]:
        for message in messages:
            yield message

    with pytest.raises(TinsmithError) as refused:
        await suite.checkpoints.UploadCheckpoint(stream())
    return refused.value.code.name, refused.value.reason


async def test_uploads_that_are_none_are_refused_and_leave_nothing(suite: Suite, tmp_path: Path) -> None:
    folder = await folder_of(suite, tmp_path)
    good = {name: (folder / name).read_bytes() for name in (CONFIG, WEIGHTS, OPTIMIZER)}
    adapter = {name: good[name] for name in (CONFIG, WEIGHTS)}
    bad = ("INVALID_ARGUMENT", "BAD_UPLOAD")
    broken_sum = header(adapter)
    broken_sum.header.files[1].sha256 = "0" * 64
    capital_sum = header(adapter)
    capital_sum.header.files[1].sha256 = "Z" * 64
    huge = header(adapter)
    huge.header.files[1].size_bytes = 1 << 62
    empty = header(adapter)
    empty.header.files[1].size_bytes = 0
    late = UploadCheckpointRequest(piece=UploadPiece(name=WEIGHTS, offset=1, data=adapter[WEIGHTS]))
    too_much = UploadCheckpointRequest(piece=UploadPiece(name=CONFIG, data=adapter[CONFIG] + b"more"))
    nan = safetensors.torch.load(adapter[WEIGHTS])
    next(iter(nan.values()))[0] = float("nan")
    not_finite = {**adapter, WEIGHTS: safetensors.torch.save(nan)}
    cases: list[tuple[tuple[str, str], list[UploadCheckpointRequest]]] = [
        (bad, []),
        (bad, pieces(adapter)),
        (bad, [header(adapter), header(adapter)]),
        (bad, [header({CONFIG: adapter[CONFIG]})]),
        (bad, [header({**adapter, "../../escaped": b"x"}), *pieces(adapter)]),
        (bad, [header({**adapter, "notes.txt": b"x"}), *pieces(adapter)]),
        (bad, [header(good, uri="tinsmith://elsewhere/sampler/uploaded"), *pieces(good)]),
        (bad, [capital_sum, *pieces(adapter)]),
        (bad, [empty, *pieces(adapter)]),
        (bad, [header(adapter), *pieces(adapter)[:1]]),
        (bad, [header(adapter), *reversed(pieces(adapter))]),
        (bad, [header(adapter), pieces(adapter)[0], late]),
        (bad, [header(adapter), too_much]),
        (bad, [header(adapter), *pieces(adapter), *pieces(adapter)]),
        (("INVALID_ARGUMENT", "UPLOAD_TOO_LARGE"), [huge, *pieces(adapter)]),
        (("INVALID_ARGUMENT", "BAD_CHECKPOINT_URI"), [header(adapter, uri="tinsmith://../training/x")]),
        (("INVALID_ARGUMENT", "RESERVED_NAME"), [header(adapter, uri="tinsmith://elsewhere/training/latest")]),
        (("DATA_LOSS", "CHECKSUM_MISMATCH"), [broken_sum, *pieces(adapter)]),
        (("DATA_LOSS", "WEIGHTS_NOT_FINITE"), [header(not_finite), *pieces(not_finite)]),
        (
            ("DATA_LOSS", "CHECKPOINT_CORRUPT"),
            [header({**adapter, WEIGHTS: b"noise"}), *pieces({**adapter, WEIGHTS: b"noise"})],
        ),
        (
            ("FAILED_PRECONDITION", "ADAPTER_UNSUPPORTED"),
            [header({**adapter, CONFIG: b"{"}), *pieces({**adapter, CONFIG: b"{"})],
        ),
        (
            ("FAILED_PRECONDITION", "CHECKPOINT_MISMATCH"),
            [header({**adapter, OPTIMIZER: good[WEIGHTS]}), *pieces({**adapter, OPTIMIZER: good[WEIGHTS]})],
        ),
        (("NOT_FOUND", "BASE_MODEL_NOT_FOUND"), [header(adapter, base_model="nobody"), *pieces(adapter)]),
        *(
            (("FAILED_PRECONDITION", "ADAPTER_UNSUPPORTED"), [header(odd), *pieces(odd)])
            for odd in ({**adapter, CONFIG: content} for content in odd_configs(adapter[CONFIG]))
        ),
        *(
            (("FAILED_PRECONDITION", "CHECKPOINT_MISMATCH"), [header(odd), *pieces(odd)])
            for odd in ({**good, OPTIMIZER: content} for content in odd_optimizers(good[OPTIMIZER]))
        ),
    ]
    for expected, messages in cases:
        assert await refusal(suite, messages) == expected, messages[:1]
    stored = (await suite.checkpoints.ListCheckpoints(ListCheckpointsRequest(model_id="elsewhere"))).checkpoints
    assert not stored
    assert not [
        path for path in (tmp_path / "checkpoints" / "elsewhere").rglob("*") if path.name not in ("training", "sampler")
    ]
    assert not (tmp_path / "escaped").exists()


async def test_a_taken_name_is_refused_unless_overwriting(suite: Suite, tmp_path: Path) -> None:
    folder = await folder_of(suite, tmp_path)
    first = await upload_checkpoint(suite, folder, URI)
    with pytest.raises(TinsmithError) as refused:
        await upload_checkpoint(suite, folder, URI)
    assert (refused.value.code.name, refused.value.reason) == ("ALREADY_EXISTS", "CHECKPOINT_EXISTS")
    again = await upload_checkpoint(suite, folder, URI, overwrite=True)
    assert state(again) == state(first)


async def test_an_upload_that_is_given_up_leaves_nothing(suite: Suite, tmp_path: Path) -> None:
    folder = await folder_of(suite, tmp_path)
    adapter = {name: (folder / name).read_bytes() for name in (CONFIG, WEIGHTS)}
    begun = asyncio.Event()

    async def stream() -> AsyncIterator[UploadCheckpointRequest]:
        yield header(adapter)
        yield pieces(adapter)[0]
        begun.set()
        await asyncio.sleep(60)

    async with grpc.aio.insecure_channel(suite.addresses.trainer) as channel:
        call = CheckpointServiceStub(channel).UploadCheckpoint(stream())
        await begun.wait()
        place = tmp_path / "checkpoints" / "elsewhere" / "training"

        async def something_is_there() -> bool:
            return place.exists() and bool(list(place.iterdir()))

        async def nothing_is_there() -> bool:
            return not await something_is_there()

        await eventually(something_is_there)
        call.cancel()
        await eventually(nothing_is_there)


async def test_a_limit_is_a_limit(tmp_path: Path, model_directory: Path) -> None:
    settings = {"base_models": (f"random={model_directory}",), "max_upload_bytes": 10_000}
    async with serving(ROOM, tmp_path, **settings) as address, Suite.connect(trainer=address) as suite:
        folder = await folder_of(suite, tmp_path)
        with pytest.raises(TinsmithError) as refused:
            await upload_checkpoint(suite, folder, URI)
    assert refused.value.reason == "UPLOAD_TOO_LARGE"

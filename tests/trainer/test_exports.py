"""Base models with adapters merged in, as `transformers` reads them."""

import asyncio
import hashlib
import resource
import shutil
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.support import serving
from tests.trainer.calls import create
from tests.trainer.foreign import Foreign
from tests.trainer.saving import save_weights, train
from tinsmith import TinsmithError
from tinsmith.aio import Suite, download_checkpoint
from tinsmith.trainer.v1 import CreateModelRequest, ExportModelRequest
from tinsmith.types.v1 import LoraConfig
from tinsmith_server.models import BaseModel, find_directory
from tinsmith_server.trainer import ROOM
from tinsmith_server.trainer.checkpoints import export

TOKENS = torch.tensor([[1, 2, 3, 4, 5, 60, 7, 200]])


def logits(model: Any) -> np.ndarray:  # type: ignore[type-arg]
    with torch.no_grad():
        found: np.ndarray = model(input_ids=TOKENS).logits.numpy()  # type: ignore[type-arg]
    return found


@pytest.mark.parametrize(
    "lora",
    [LoraConfig(rank=4, alpha=64), LoraConfig(rank=4, alpha=64, train_unembedding=False)],
    ids=["with the head, which is tied", "without"],
)
@pytest.mark.filterwarnings("ignore")
async def test_an_export_is_the_base_with_its_adapter(
    suite: Suite, tmp_path: Path, model_directory: Path, lora: LoraConfig
) -> None:
    model = await create(suite, lora=lora)
    await train(suite, model, 5)
    saved = await save_weights(suite, model, name="done")
    answer = await suite.checkpoints.ExportModel(ExportModelRequest(uri=saved.uri, name="merged"))
    directory = tmp_path / "exports" / "merged"
    assert answer.base_model == "merged"
    assert {file.name: file.sha256 for file in answer.files} == {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.iterdir()
    }
    await download_checkpoint(suite, saved.uri, tmp_path / "adapter")
    expected = logits(Foreign.load(model_directory, tmp_path / "adapter").model)
    merged = AutoModelForCausalLM.from_pretrained(directory)
    np.testing.assert_allclose(logits(merged), expected, atol=1e-4)
    base = logits(AutoModelForCausalLM.from_pretrained(model_directory))
    assert np.abs(base - expected).max() > 0.1, "the adapter changes something"
    assert AutoTokenizer.from_pretrained(directory).encode("a b") == AutoTokenizer.from_pretrained(
        model_directory
    ).encode("a b")


async def test_servers_of_the_home_take_an_export_by_its_name(suite: Suite, tmp_path: Path) -> None:
    saved = await save_weights(suite, await create(suite), name="done")
    await suite.checkpoints.ExportModel(ExportModelRequest(uri=saved.uri, name="merged.v2"))
    assert find_directory(BaseModel(name="alias", location="merged.v2"), tmp_path) == tmp_path / "exports" / "merged.v2"
    settings = {"base_models": ("merged.v2", "short=merged.v2")}
    async with serving(ROOM, tmp_path, **settings) as address, Suite.connect(trainer=address) as other:
        for name in ("merged.v2", "short"):
            model = (await other.trainer.CreateModel(CreateModelRequest(base_model=name))).model
            assert model.base_model == name


async def test_exports_lie_where_the_setting_says(tmp_path: Path, model_directory: Path) -> None:
    settings = {"base_models": (f"random={model_directory}",), "export_root": tmp_path / "elsewhere"}
    async with serving(ROOM, tmp_path, **settings) as address, Suite.connect(trainer=address) as suite:
        saved = await save_weights(suite, await create(suite), name="done")
        await suite.checkpoints.ExportModel(ExportModelRequest(uri=saved.uri, name="merged"))
    assert (tmp_path / "elsewhere" / "merged" / "config.json").is_file()


async def test_a_repeated_export_has_no_effect_and_the_same_answer(suite: Suite, tmp_path: Path) -> None:
    """R-12."""
    saved = await save_weights(suite, await create(suite), name="done")
    request = ExportModelRequest(uri=saved.uri, name="merged")
    first = await suite.checkpoints.ExportModel(request)
    written = (tmp_path / "exports" / "merged").stat().st_mtime_ns
    assert await suite.checkpoints.ExportModel(request) == first
    assert (tmp_path / "exports" / "merged").stat().st_mtime_ns == written


async def test_exports_that_come_together_are_made_once_and_one_after_the_other(
    suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each holds a copy of the base model in memory, also when its caller has gone."""
    saved = await save_weights(suite, await create(suite), name="done")
    request = ExportModelRequest(uri=saved.uri, name="merged")
    merge, at_work, most, begun = export._merged, [], [], threading.Event()

    def merged(*args: Any) -> Any:
        at_work.append(1)
        most.append(len(at_work))
        begun.set()
        time.sleep(0.2)  # for the others to come in
        at_work.pop()
        return merge(*args)

    monkeypatch.setattr(export, "_merged", merged)
    given_up = asyncio.ensure_future(suite.checkpoints.ExportModel(request))
    assert await asyncio.to_thread(begun.wait, 20)
    given_up.cancel()
    answers = await asyncio.gather(*(suite.checkpoints.ExportModel(request) for _ in range(3)))
    assert answers == [answers[0]] * 3
    assert most == [1]


async def test_an_export_changes_nothing_that_training_sees(
    tmp_path: Path, model_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as torch's default type of numbers, which a model made meanwhile would have its adapter in."""
    settings = {"base_models": (f"random={model_directory}",), "dtype": "bfloat16"}
    async with serving(ROOM, tmp_path, **settings) as address, Suite.connect(trainer=address) as suite:
        saved = await save_weights(suite, await create(suite), name="done")
        changes: list[torch.dtype] = []
        monkeypatch.setattr(torch, "set_default_dtype", changes.append)
        await suite.checkpoints.ExportModel(ExportModelRequest(uri=saved.uri, name="merged"))
    monkeypatch.undo()
    assert changes == []
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "exports" / "merged", dtype="auto")
    assert merged.dtype == torch.bfloat16


async def test_two_trainers_of_one_home_may_make_the_same_export(
    suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = await save_weights(suite, await create(suite), name="done")
    request = ExportModelRequest(uri=saved.uri, name="merged")
    merge = export._merged

    def merged(*args: Any) -> Any:
        monkeypatch.setattr(export, "_merged", merge)
        made = merge(*args)
        shutil.copytree(other, tmp_path / "exports" / "merged")  # the other one is quicker
        return made

    other = tmp_path / "other"
    first = await suite.checkpoints.ExportModel(request)
    (tmp_path / "exports" / "merged").rename(other)
    monkeypatch.setattr(export, "_merged", merged)
    assert await suite.checkpoints.ExportModel(request) == first
    assert [path.name for path in (tmp_path / "exports").iterdir()] == ["merged"]


async def test_an_export_to_a_full_disk_is_told_and_leaves_nothing(suite: Suite, tmp_path: Path) -> None:
    """A limit on the size of files, which the kernel reports as it reports a full disk."""
    saved = await save_weights(suite, await create(suite), name="done")
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(TinsmithError) as refused:
            await suite.checkpoints.ExportModel(ExportModelRequest(uri=saved.uri, name="merged"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert (refused.value.code.name, refused.value.reason) == ("RESOURCE_EXHAUSTED", "STORAGE_FULL")
    assert not list((tmp_path / "exports").iterdir())


@pytest.mark.parametrize("name", ["merged", "tinsmith-tiny"])
async def test_a_taken_name_is_refused(suite: Suite, name: str) -> None:
    model = await create(suite)
    first = await save_weights(suite, model, name="first")
    if name == "merged":
        await suite.checkpoints.ExportModel(ExportModelRequest(uri=first.uri, name=name))
    await train(suite, model, 1)
    second = await save_weights(suite, model, name="second")
    with pytest.raises(TinsmithError) as refused:
        await suite.checkpoints.ExportModel(ExportModelRequest(uri=second.uri, name=name))
    assert (refused.value.code.name, refused.value.reason) == ("ALREADY_EXISTS", "EXPORT_EXISTS")


@pytest.mark.parametrize("name", ["", ".hidden", "../outside", "a/b", "a b", "x" * 129])
async def test_a_name_that_is_none_is_refused(suite: Suite, tmp_path: Path, name: str) -> None:
    saved = await save_weights(suite, await create(suite), name="done")
    with pytest.raises(TinsmithError) as refused:
        await suite.checkpoints.ExportModel(ExportModelRequest(uri=saved.uri, name=name))
    assert refused.value.reason == "INVALID_REQUEST"
    assert not (tmp_path / "exports").exists()


async def test_a_damaged_checkpoint_is_not_exported_and_nothing_is_left(suite: Suite, tmp_path: Path) -> None:
    saved = await save_weights(suite, await create(suite), name="done")
    path = tmp_path / "checkpoints" / saved.uri.removeprefix("tinsmith://") / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(TinsmithError) as refused:
        await suite.checkpoints.ExportModel(ExportModelRequest(uri=saved.uri, name="merged"))
    assert (refused.value.code.name, refused.value.reason) == ("DATA_LOSS", "CHECKPOINT_CORRUPT")
    assert not (tmp_path / "exports").exists()
    with pytest.raises(TinsmithError) as refused:
        await suite.checkpoints.ExportModel(ExportModelRequest(uri="tinsmith://no/sampler/one", name="merged"))
    assert refused.value.reason == "CHECKPOINT_NOT_FOUND"

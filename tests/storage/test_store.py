"""The checkpoint store: whole or not at all, verified, never mixed up."""

import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.storage.drafts import FILES, draft
from tinsmith_server.serving.errors import AlreadyExists, DataLoss, FailedPrecondition, NotFound
from tinsmith_server.storage import CheckpointStore, CheckpointUri


def folder_of(store: CheckpointStore, uri: CheckpointUri) -> Path:
    return store._layout.root / uri.model_id / uri.kind / uri.name


@pytest.mark.parametrize("durable", [True, False])
def test_what_is_published_is_read_back(store: CheckpointStore, durable: bool) -> None:
    later = datetime.now(UTC) + timedelta(days=1)
    written = store.publish(
        draft(user_metadata={"run": "7"}, expire_time=later, ephemeral=True), FILES, durable=durable
    )
    assert store.manifest(written.uri) == written
    assert {file.name: store.read(written, file.name) for file in written.files} == FILES


def test_a_checkpoint_is_a_folder_that_other_programs_can_open(store: CheckpointStore) -> None:
    written = store.publish(draft(), FILES, durable=False)
    assert (folder_of(store, written.uri) / "adapter_config.json").read_bytes() == b"{}"


def test_a_taken_name_is_refused_and_keeps_its_checkpoint(store: CheckpointStore) -> None:
    first = store.publish(draft(), FILES, durable=False)
    with pytest.raises(AlreadyExists) as refused:
        store.publish(draft(), {"adapter_config.json": b"other"}, durable=False)
    assert refused.value.reason == "CHECKPOINT_EXISTS"
    assert store.manifest(first.uri) == first
    assert store.read(first, "adapter_model.safetensors") == FILES["adapter_model.safetensors"]


def test_overwriting_replaces_all_of_it(store: CheckpointStore) -> None:
    first = store.publish(draft(), FILES, durable=False)
    second = store.publish(draft(step=2), {"adapter_config.json": b"new"}, durable=True, overwrite=True)
    assert store.manifest(first.uri) == second
    assert store.read(second, "adapter_config.json") == b"new"
    assert len(os.listdir(store._layout.root / "model" / "training")) == 2  # the link and one folder


def test_a_reader_of_a_replaced_checkpoint_never_gets_the_other_ones_bytes(store: CheckpointStore) -> None:
    first = store.publish(draft(), FILES, durable=False)
    store.publish(draft(step=2), {"adapter_config.json": b"new"}, durable=False, overwrite=True)
    with pytest.raises(NotFound) as refused:
        store.read(first, "adapter_config.json")
    assert refused.value.reason == "CHECKPOINT_NOT_FOUND"


def test_an_unknown_checkpoint_is_not_found(store: CheckpointStore) -> None:
    with pytest.raises(NotFound) as refused:
        store.manifest(CheckpointUri.parse("tinsmith://nobody/training/1"))
    assert refused.value.reason == "CHECKPOINT_NOT_FOUND"


@pytest.mark.parametrize("file_name", ["adapter_model.safetensors", "manifest.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "grow", "remove"])
def test_damage_is_found(store: CheckpointStore, file_name: str, damage: str) -> None:
    written = store.publish(draft(), FILES, durable=False)
    path = folder_of(store, written.uri) / file_name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    changed = {"flip": bytes(content), "cut": path.read_bytes()[:-1], "grow": path.read_bytes() + b"0"}
    path.unlink() if damage == "remove" else path.write_bytes(changed[damage])
    with pytest.raises(DataLoss) as refused:
        store.read(store.manifest(written.uri), file_name)
    assert refused.value.reason == "CHECKPOINT_CORRUPT"
    assert refused.value.metadata["file"] == file_name


def test_a_changed_field_of_the_manifest_is_found(store: CheckpointStore) -> None:
    written = store.publish(draft(step=17), FILES, durable=False)
    path = folder_of(store, written.uri) / "manifest.json"
    path.write_text(path.read_text().replace('"step": 17', '"step": 18'))
    with pytest.raises(DataLoss):
        store.manifest(written.uri)


def test_listing_is_by_model_and_oldest_first_and_leaves_out_the_damaged(store: CheckpointStore) -> None:
    for name, model, kind in [("b", "one", "training"), ("a", "one", "sampler"), ("c", "two", "training")]:
        store.publish(draft(name, model=model, kind=kind), FILES, durable=False)
    broken = store.publish(draft("x", model="one"), FILES, durable=False)
    (folder_of(store, broken.uri) / "manifest.json").write_text("{}")
    (store._layout.root / "a stray file").write_text("")
    assert [str(item.uri) for item in store.list()] == [
        "tinsmith://one/training/b",
        "tinsmith://one/sampler/a",
        "tinsmith://two/training/c",
    ]
    assert [item.uri.name for item in store.list(model_id="one", kind="sampler")] == ["a"]
    assert store.list(model_id="../checkpoints/one") == []


def test_deleting_twice_says_that_there_was_one_and_then_none(store: CheckpointStore) -> None:
    written = store.publish(draft(), FILES, durable=False)
    assert store.delete(written.uri)
    assert not store.delete(written.uri)
    assert os.listdir(store._layout.root / "model" / "training") == []


def test_an_expired_checkpoint_is_gone_and_swept(store: CheckpointStore) -> None:
    soon = datetime.now(UTC) + timedelta(milliseconds=30)
    written = store.publish(draft(expire_time=soon), FILES, durable=False)
    store.publish(draft("kept"), FILES, durable=False)
    time.sleep(0.05)
    with pytest.raises(NotFound):
        store.manifest(written.uri)
    assert store.sweep() == 1
    assert [item.uri.name for item in store.list()] == ["kept"]


def test_life_time_and_publication_can_be_changed(store: CheckpointStore) -> None:
    written = store.publish(draft(), FILES, durable=False)
    later = datetime.now(UTC) + timedelta(days=1)
    store.set_published(written.uri, True)
    changed = store.set_expire_time(written.uri, later)
    assert (changed.expire_time, changed.published) == (later, True)
    assert store.manifest(written.uri) == changed
    assert store.read(written, "adapter_config.json") == b"{}"


def test_what_interrupted_writes_left_is_swept_but_not_what_is_being_written(store: CheckpointStore) -> None:
    written = store.publish(draft(), FILES, durable=False)
    leftover = folder_of(store, written.uri).with_name(f".000002.{'a' * 32}")
    leftover.mkdir()
    assert store.sweep() == 0
    assert store.sweep(unfinished_after_s=-1) == 1
    assert not leftover.exists()
    assert store.read(written, "adapter_config.json") == b"{}"


def test_a_root_that_can_not_be_written_is_named_to_the_operator(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FailedPrecondition) as refused:
        CheckpointStore(tmp_path / "file" / "checkpoints").prepare()
    assert refused.value.reason == "STORAGE_NOT_WRITABLE"
    assert "checkpoint_root" in refused.value.message


def test_what_happens_to_the_folder_later_names_no_path(store: CheckpointStore) -> None:
    store._layout.root.joinpath("model").write_text("in the way")
    with pytest.raises(FailedPrecondition) as refused:
        store.publish(draft(), FILES, durable=False)
    assert refused.value.reason == "STORAGE_NOT_WRITABLE"
    assert str(store._layout.root) not in refused.value.message

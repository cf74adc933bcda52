"""Two that do something to one checkpoint at the same moment: neither loses what it did."""

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.storage.drafts import FILES, draft
from tinsmith_server.serving.errors import NotFound
from tinsmith_server.storage import CheckpointStore, CheckpointUri, Manifest, resolve
from tinsmith_server.storage import files as disk
from tinsmith_server.storage import store as store_module

PAST = datetime(2020, 1, 1, tzinfo=UTC)


def before_the_first(monkeypatch: pytest.MonkeyPatch, owner: object, name: str, act: Callable[[], object]) -> None:
    """`act` happens right before `owner.name` is called for the first time."""
    real, acted = getattr(owner, name), []

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if not acted:
            acted.append(True)
            act()
        return real(*args, **kwargs)

    monkeypatch.setattr(owner, name, wrapped)


def test_the_sweeper_does_not_take_what_has_just_replaced_the_expired(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.publish(draft(expire_time=PAST), FILES, durable=False)
    fresh: list[Manifest] = []

    def replace() -> None:
        fresh.append(store.publish(draft(step=2), FILES, durable=False, overwrite=True))

    before_the_first(monkeypatch, store, "_take_away", replace)
    store.sweep()
    assert store.list() == fresh


def test_life_time_and_publication_are_changed_apart(store: CheckpointStore) -> None:
    """Whoever changes one of them says nothing of the other, which may change at the same time."""
    later = datetime.now(UTC) + timedelta(days=1)
    uri = store.publish(draft(), FILES, durable=False).uri
    with ThreadPoolExecutor(2) as threads:
        for _ in range(20):
            store.set_expire_time(uri, None)
            store.set_published(uri, False)
            changes = [
                threads.submit(store.set_published, uri, True),
                threads.submit(store.set_expire_time, uri, later),
            ]
            for change in changes:
                change.result()
            found = store.manifest(uri)
            assert (found.published, found.expire_time) == (True, later)


def test_a_change_of_what_is_being_replaced_is_of_the_one_or_the_other(store: CheckpointStore, tmp_path: Path) -> None:
    uri = store.publish(draft(), FILES, durable=False).uri
    with ThreadPoolExecutor(2) as threads:
        publishing = threads.submit(
            lambda: [store.publish(draft(step=step), FILES, durable=False, overwrite=True) for step in range(200)]
        )
        while not publishing.done():
            store.set_published(uri, True)
        publishing.result()
    assert store.manifest(uri).step == 199


def test_a_commit_that_is_given_up_publishes_all_or_nothing(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller has gone and discards, while a thread is about to give the folder its name."""
    staging = store.stage(draft().uri, durable=True)
    staging.add("adapter_config.json", [b"{}"])
    with ThreadPoolExecutor(1) as threads:
        before_the_first(
            monkeypatch,
            store,
            "_link",
            lambda: (threads.submit(staging.discard), time.sleep(0.1)),  # the time it needs
        )
        manifest = store.commit(staging, draft())
    assert store.list() == [manifest]
    assert store.read(manifest, "adapter_config.json") == b"{}"


def test_what_was_discarded_is_not_published(store: CheckpointStore) -> None:
    staging = store.stage(draft().uri, durable=False)
    staging.add("adapter_config.json", [b"{}"])
    staging.discard()
    with pytest.raises(NotFound):
        store.commit(staging, draft())
    assert os.listdir(store._layout.root / "model" / "training") == []


def test_the_sweeper_does_not_take_what_is_published_at_last(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write that nobody touched for long is finished while the sweeper is about to remove it."""
    staging = store.stage(draft().uri, durable=False)
    staging.add("adapter_config.json", [b"{}"])
    made: list[Manifest] = []
    before_the_first(monkeypatch, store, "_changing", lambda: made.append(store.commit(staging, draft())))
    assert store.sweep(unfinished_after_s=-1) == 0
    assert store.list() == made
    assert store.read(made[0], "adapter_config.json") == b"{}"


def test_latest_is_the_one_that_has_just_replaced_the_newest(store: CheckpointStore) -> None:
    store.publish(draft("old"), FILES, durable=False)
    newest = store.publish(draft("new"), FILES, durable=False)
    replaced: list[Manifest] = []

    def load(uri: CheckpointUri) -> Manifest:
        manifest = store.manifest(uri)
        if not replaced:
            replaced.append(store.publish(draft("new", step=7), FILES, durable=False, overwrite=True))
        for file in manifest.files:
            store.read(manifest, file.name)
        return manifest

    found = resolve(store, CheckpointUri.parse("tinsmith://model/training/latest"), load)
    assert (found.value, found.skipped) == (replaced[0], ())
    assert newest.uri == replaced[0].uri


def test_a_name_whose_time_is_over_is_free(store: CheckpointStore) -> None:
    """It is not there for readers, so it is not there for writers either, whether it was swept or not."""
    store.publish(draft(expire_time=PAST), FILES, durable=False)
    written = store.publish(draft(step=2), FILES, durable=False)
    assert store.list() == [written]
    source = store.publish(draft("source"), FILES, durable=False)
    store.publish(draft("target", expire_time=PAST), FILES, durable=False)
    assert store.copy(source.uri, draft("target").uri).expire_time is None


def test_one_checkpoint_that_can_not_be_removed_does_not_keep_the_others(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b", "c"):
        store.publish(draft(name, expire_time=PAST), FILES, durable=False)
    real = disk.remove_folder

    def refuse(folder: Path) -> None:
        if ".b." in folder.name:
            raise PermissionError(13, "no")
        real(folder)

    monkeypatch.setattr(store_module.disk, "remove_folder", refuse)
    store.sweep()
    monkeypatch.undo()
    assert [name for name in os.listdir(store._layout.root / "model" / "training") if ".b." not in name] == []


def test_a_link_that_somebody_made_to_elsewhere_is_removed_and_what_lies_there_is_not(
    store: CheckpointStore, tmp_path: Path
) -> None:
    written = store.publish(draft(), FILES, durable=False)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").write_text("")
    link = store._layout.root / "model" / "training" / "mine"
    link.symlink_to(elsewhere)
    assert store.delete(CheckpointUri.parse("tinsmith://model/training/mine"))
    assert not link.is_symlink()
    assert (elsewhere / "precious").exists()
    link.symlink_to(elsewhere)
    store.publish(draft("mine"), FILES, durable=False, overwrite=True)
    assert (elsewhere / "precious").exists()
    assert written in store.list()

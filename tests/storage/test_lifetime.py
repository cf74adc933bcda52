"""When checkpoints end, by a clock that the tests set."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.storage.drafts import FILES, draft
from tinsmith_server.serving.errors import NotFound
from tinsmith_server.storage import CheckpointStore, Manifest

DAY = timedelta(days=1)


class FakeClock:
    """A clock that stands still until it is set on."""

    def __init__(self) -> None:
        self.now = datetime(2030, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def store(tmp_path: Path, clock: FakeClock) -> CheckpointStore:
    store = CheckpointStore(tmp_path / "checkpoints", clock=clock)
    store.prepare()
    return store


def publish(store: CheckpointStore, clock: FakeClock, name: str, **fields: object) -> Manifest:
    """A checkpoint that ends in a day; the clock goes on by a second."""
    clock.now += timedelta(seconds=1)
    return store.publish(draft(name, **{"expire_time": clock.now + DAY, **fields}), FILES, durable=False)


def names(store: CheckpointStore) -> list[str]:
    return [manifest.uri.name for manifest in store.list()]


def test_what_has_come_to_its_end_is_gone_at_once_and_swept_later(store: CheckpointStore, clock: FakeClock) -> None:
    """R-09"""
    ended = publish(store, clock, "ended")
    publish(store, clock, "kept", expire_time=None)
    assert ended.expire_time is not None
    clock.now = ended.expire_time - timedelta(microseconds=1)
    assert names(store) == ["ended", "kept"]
    assert store.sweep() == 0
    clock.now = ended.expire_time
    assert names(store) == ["kept"]
    with pytest.raises(NotFound):
        store.manifest(ended.uri)
    assert store.sweep() == 1
    clock.now = ended.create_time
    assert names(store) == ["kept"]


def test_what_is_published_does_not_end_until_it_is_published_no_more(store: CheckpointStore, clock: FakeClock) -> None:
    """R-09"""
    shared = publish(store, clock, "shared", published=True)
    clock.now += 2 * DAY
    assert store.sweep() == 0
    assert names(store) == ["shared"]
    store.set_published(shared.uri, False)
    assert names(store) == []
    assert store.sweep() == 1


def test_the_newest_training_checkpoint_of_a_live_model_does_not_end(store: CheckpointStore, clock: FakeClock) -> None:
    """R-09: whichever process sweeps; the others of the model end, and so does the same of a model that is not kept."""
    for name in ("1", "2"):
        publish(store, clock, name)
        publish(store, clock, f"other-{name}", model="other")
    publish(store, clock, "weights", kind="sampler")
    clock.now += 2 * DAY
    store.mark_live(["model", "without-checkpoints"])
    assert names(store) == ["2"]
    assert CheckpointStore(store._layout.root, clock=clock).sweep() == 4
    assert names(store) == ["2"]
    publish(store, clock, "3")
    assert names(store) == ["3"], "the one before is needed no more"


def test_a_damaged_one_does_not_stand_in_for_the_newest(store: CheckpointStore, clock: FakeClock) -> None:
    """Training would go on from the one before."""
    publish(store, clock, "1")
    damaged = publish(store, clock, "2")
    store.path(damaged, "manifest.json").write_text("{}")
    clock.now += 2 * DAY
    store.mark_live(["model"])
    assert names(store) == ["1"]
    assert store.sweep() == 0


def test_ephemeral_weights_outlive_their_model_by_a_day_at_most(store: CheckpointStore, clock: FakeClock) -> None:
    for model in ("model", "live"):
        publish(store, clock, f"of-{model}", model=model, kind="sampler", ephemeral=True, expire_time=None)
    clock.now += DAY - timedelta(seconds=5)
    assert names(store) == ["of-live", "of-model"]
    clock.now += timedelta(seconds=10)
    store.mark_live(["live"])
    assert names(store) == ["of-live"]
    assert store.sweep() == 1


@pytest.mark.parametrize("ends", ["forgotten", "silent"])
def test_a_model_that_is_kept_no_more_protects_nothing(store: CheckpointStore, clock: FakeClock, ends: str) -> None:
    publish(store, clock, "1")
    clock.now += 2 * DAY
    store.mark_live(["model"])
    clock.now += timedelta(minutes=5)
    assert names(store) == ["1"]
    if ends == "forgotten":
        store.forget_live("model")
    else:  # its process was killed
        clock.now += timedelta(minutes=6)
    assert names(store) == []
    assert store.sweep() == 1


@pytest.mark.parametrize("ends", ["forgotten", "silent"])
def test_ephemeral_weights_outlive_an_old_model_by_a_day_too(
    store: CheckpointStore, clock: FakeClock, ends: str
) -> None:
    """Whenever they were made: the day begins when the model is gone."""
    publish(store, clock, "weights", kind="sampler", ephemeral=True, expire_time=None)
    clock.now += 5 * DAY
    store.mark_live(["model"])
    if ends == "forgotten":
        store.forget_live("model")
    clock.now += DAY - timedelta(seconds=5)
    assert names(store) == ["weights"]
    clock.now += timedelta(minutes=11)
    assert names(store) == []


def test_folders_of_others_are_not_swept(store: CheckpointStore) -> None:
    """What is hidden beside checkpoints or exports need not be ours."""
    others = store._layout.root / "model" / "training" / ".cache.d"
    others.mkdir(parents=True)
    assert store.sweep(unfinished_after_s=-1) == 0
    assert others.is_dir()

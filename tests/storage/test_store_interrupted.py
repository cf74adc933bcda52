"""Kills and full disks: the old checkpoint or the new one, never half of one."""

import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.storage.drafts import FILES, draft
from tinsmith_server.serving.errors import ResourceExhausted
from tinsmith_server.storage import CheckpointStore

PUBLISHER = Path(__file__).with_name("publisher.py")


@pytest.mark.parametrize("mode", ["quick", "durable"])
def test_a_publisher_killed_anywhere_leaves_only_whole_checkpoints(tmp_path: Path, mode: str) -> None:
    store = CheckpointStore(tmp_path)
    chance = random.Random(0)
    for attempt in range(8):
        command = [sys.executable, str(PUBLISHER), str(tmp_path), mode, str(attempt)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, env={"PYTHONPATH": ":".join(sys.path)})
        assert process.stdout is not None
        for _ in range(chance.randint(2, 5)):
            process.stdout.readline()
        time.sleep(chance.uniform(0, 0.02))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        for manifest in store.list():
            contents = {file.name: store.read(manifest, file.name) for file in manifest.files}
            assert contents["a"] == contents["b"][::-1] == manifest.step.to_bytes(8, "little") * 20_000
    published = store.list()
    assert len(published) > 8
    store.sweep(unfinished_after_s=-1)
    assert store.list() == published
    in_folder = [entry.name for entry in (tmp_path / "model" / "training").iterdir() if entry.name.startswith(".")]
    assert len(in_folder) == len(published)


def test_a_full_disk_is_reported_and_leaves_nothing(store: CheckpointStore) -> None:
    """A limit on the size of files, which the kernel reports as it reports a full disk."""
    kept = store.publish(draft("kept"), FILES, durable=False)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        for name, overwrite in (("new", False), ("kept", True)):
            with pytest.raises(ResourceExhausted) as refused:
                store.publish(draft(name), {"weights": b"x" * 8192}, durable=True, overwrite=overwrite)
            assert refused.value.reason == "STORAGE_FULL"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert store.list() == [kept]
    assert store.read(kept, "adapter_config.json") == b"{}"
    assert len(list((store._layout.root / "model" / "training").iterdir())) == 2


def test_what_a_kill_leaves_just_before_the_new_name_is_swept(store: CheckpointStore) -> None:
    """The new link lies in its folder, where it points nowhere."""
    kept = store.publish(draft("kept"), FILES, durable=False)
    folder = store._layout.folder(kept.uri, "0" * 32)
    folder.mkdir()
    (folder / ".link").symlink_to(folder.name)
    assert store.sweep(unfinished_after_s=-1) == 1
    assert not folder.exists()
    assert store.list() == [kept]

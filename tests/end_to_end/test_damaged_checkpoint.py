"""A checkpoint that rots while nobody looks."""

import pytest

from tests.end_to_end.driving import SMALL, connect, run_to_end, start, wait_for_step, watch_to_end
from tests.suite import RunningSuite

SETTINGS = {**SMALL, "save_every": "2", "steps": "12", "seed": "5"}


@pytest.mark.chaos
def test_run_goes_back_past_a_damaged_checkpoint_and_ends_alike(suite: RunningSuite) -> None:
    """R-01: a bit of the newest checkpoint flips while the trainer is down; the run says so and begins at the one
    before, with the data of that step."""
    undisturbed = run_to_end(suite, **SETTINGS)
    with connect(suite) as client:
        run_id = start(client, **SETTINGS)
        wait_for_step(client, run_id, 7)
        killed = suite.kill("trainer")
        *_, before, newest = sorted((suite.home / "checkpoints" / run_id / "training").glob("0*"))
        content = bytearray((newest / "adapter_model.safetensors").read_bytes())
        content[len(content) // 2] ^= 1
        (newest / "adapter_model.safetensors").write_bytes(content)
        ended = watch_to_end(client, run_id)
        suite.wait_until_back("trainer", killed)
    notices = [event.notice.message for event in ended.events if event.HasField("notice")]
    said = f"the checkpoint of step {int(newest.name)} can't be used"
    assert any(said in notice and "CHECKPOINT_CORRUPT" in notice for notice in notices), notices
    recovered = [event.recovered for event in ended.events if event.HasField("recovered")]
    assert recovered[-1].from_step == int(before.name)
    assert recovered[-1].checkpoint_uri.endswith(f"/training/{before.name}")
    assert ended.adapter_sha256 == undisturbed.adapter_sha256
    assert ended.series("env/all/reward/total") == undisturbed.series("env/all/reward/total")

"""A run is a function of its configuration and seed, whatever dies on the way."""

import random

import pytest

from tests.end_to_end.driving import SMALL, Ended, connect, run_to_end, start, wait_for_step, watch_to_end
from tests.suite import RunningSuite

STEPS = 12


@pytest.fixture(scope="module")
def undisturbed(suite: RunningSuite) -> Ended:
    return run_to_end(suite, **SMALL, steps=STEPS, seed=3)


def test_same_seed_same_adapter(suite: RunningSuite, undisturbed: Ended) -> None:
    """C-01, P-01: to the byte, with other runs at work beside it."""
    with connect(suite) as client:
        beside = start(client, **SMALL, steps=STEPS, seed=4)
        again = watch_to_end(client, start(client, **SMALL, steps=STEPS, seed=3))
        other = watch_to_end(client, beside)
    assert again.adapter_sha256 == undisturbed.adapter_sha256
    assert again.series("env/all/reward/total") == undisturbed.series("env/all/reward/total")
    assert other.adapter_sha256 != undisturbed.adapter_sha256


@pytest.mark.chaos
@pytest.mark.parametrize("room", ["trainer", "sampler", "orchestrator", "dataset", "grader", "environment"])
def test_killed_process_changes_nothing(suite: RunningSuite, undisturbed: Ended, room: str) -> None:
    """R-01: SIGKILL in mid-run, between two checkpoints: the process comes back and the run ends alike."""
    with connect(suite) as client:
        run_id = start(client, **SMALL, steps=STEPS, seed=3)
        wait_for_step(client, run_id, 5)
        killed = suite.kill(room)
        ended = watch_to_end(client, run_id)
        suite.wait_until_back(room, killed)
    assert ended.adapter_sha256 == undisturbed.adapter_sha256
    assert ended.series("env/all/reward/total") == undisturbed.series("env/all/reward/total")
    if room in ("trainer", "orchestrator"):
        assert ended.count("recovered") >= 1


@pytest.mark.chaos
@pytest.mark.timeout(600)
def test_many_kills_change_nothing(suite: RunningSuite) -> None:
    """Processes die one after the other at random steps of the demo's own run."""
    calm = run_to_end(suite, seed=7, eval_every=0, save_every=5)
    rng = random.Random(0)
    rooms = ["trainer", "sampler", "orchestrator", "environment", "grader", "dataset"]
    rng.shuffle(rooms)
    with connect(suite) as client:
        run_id = start(client, seed=7, eval_every=0, save_every=5)
        for number, room in enumerate(rooms):
            wait_for_step(client, run_id, 2 + 6 * number + rng.randrange(4))
            suite.wait_until_back(room, suite.kill(room))
        ended = watch_to_end(client, run_id)
    assert ended.adapter_sha256 == calm.adapter_sha256

"""A suite of seven processes that wants keys: a run of one tenant, which another does not see."""

from pathlib import Path

import pytest

from tests.serving.tenancy import key_of, write_tenants
from tests.suite import running_suite
from tinsmith import Suite, TinsmithError, watch_run
from tinsmith.orchestrator.v1 import GetRunRequest, ListRunsRequest, RunState, StartRunRequest
from tinsmith.trainer.v1 import ListCheckpointsRequest

SMALL = {"steps": "2", "groups_per_batch": "4", "group_size": "4", "eval_every": "0", "save_every": "1"}


@pytest.mark.slow
def test_a_run_is_its_tenants_own_in_every_process(tmp_path: Path) -> None:
    """R-02: the rooms know each other by a secret that `tinsmith up` makes, and call in the tenant's name."""
    keys = write_tenants(tmp_path, alice="", bob="")
    with running_suite(tmp_path / "home", environment={"TINSMITH_API_KEYS": str(keys)}) as running:

        def client(api_key: str | None) -> Suite:
            return Suite.connect(home=running.home, api_key=api_key)

        with client(key_of("alice")) as alice, client(key_of("bob")) as bob, client(None) as nobody:
            run_id = alice.orchestrator.StartRun(StartRunRequest(recipe="math_rl", overrides=SMALL)).run.run_id
            for _ in watch_run(alice, run_id):
                pass
            run = alice.orchestrator.GetRun(GetRunRequest(run_id=run_id)).run
            assert (run.state, run.tenant) == (RunState.RUN_STATE_COMPLETED, "alice"), run.error
            checkpoints = alice.checkpoints.ListCheckpoints(ListCheckpointsRequest()).checkpoints
            assert run.checkpoint_uri in {checkpoint.uri for checkpoint in checkpoints}
            assert not bob.orchestrator.ListRuns(ListRunsRequest()).runs
            assert not bob.checkpoints.ListCheckpoints(ListCheckpointsRequest()).checkpoints
            with pytest.raises(TinsmithError, match="API_KEY_MISSING"):
                nobody.orchestrator.ListRuns(ListRunsRequest())
        logs = "".join(running.log(room) for room in running.state.services)
        assert "0123456789abcdef" not in logs, "no key is ever logged"

"""Drives one run from where it is to its end.

An attempt begins at the newest good checkpoint. When a service loses what the run had in it, the attempt is over and
another begins; since a run is a function of its configuration and seed, the steps in between come out as before.
"""

import asyncio
import logging
import secrets
from hashlib import sha256

from tinsmith.aio import Suite
from tinsmith.orchestrator.v1 import Run, RunError, RunState
from tinsmith_server.orchestrator.active_run import ActiveRun, Attempt, MadeModel
from tinsmith_server.orchestrator.driving.recoveries import Recoveries
from tinsmith_server.orchestrator.peers import Caller, CallFailed, Peers, RunCancelled, StateLost
from tinsmith_server.orchestrator.recipes import RECIPES
from tinsmith_server.orchestrator.settings import OrchestratorSettings
from tinsmith_server.orchestrator.store import ENDED, LeaseLost, Registry, RunChange, Runs
from tinsmith_server.orchestrator.store.registry import NewModel
from tinsmith_server.orchestrator.store.runs import state_changed
from tinsmith_server.serving import call_for, span

_log = logging.getLogger(__name__)

_CAME_BACK = RunError(
    reason="ORCHESTRATOR_RESTARTED", message="the orchestrator that drove the run went away; another took it up"
)
_CLEAN_UP_S = 10.0


class Driver:
    """Drives runs under the leases of one owner."""

    def __init__(
        self, *, suite: Suite, runs: Runs, registry: Registry, settings: OrchestratorSettings, owner: str
    ) -> None:
        self._suite = suite
        self._runs = runs
        self._registry = registry
        self._settings = settings
        self._owner = owner

    async def drive(self, run_id: str, cancelled: asyncio.Event) -> None:
        """Drives the run until it has ended. LeaseLost when another process has it."""
        recoveries = Recoveries(self._settings.max_recoveries)
        cause: RunError | None = None
        while True:
            run, number = await self._runs.begin_attempt(run_id, self._owner)
            if run.state in ENDED:
                return None
            call_for(run.tenant)
            if run.state == RunState.RUN_STATE_RUNNING and cause is None:
                cause = _CAME_BACK
            attempt = Attempt(run_id=run_id, number=number, owner=self._owner)
            try:
                made = await self._attempt(run, attempt, cause, cancelled)
            except StateLost as lost:
                cause = lost.error
                run = await self._runs.get(run_id)
                if not recoveries.allow(run.step):
                    return await self._end(attempt, RunState.RUN_STATE_FAILED, cause)
                _log.warning("run %s goes back to its newest checkpoint: %s", run_id, lost)
                await asyncio.sleep(recoveries.pause_s)
            except CallFailed as failure:
                return await self._end(attempt, RunState.RUN_STATE_FAILED, failure.error)
            except RunCancelled:
                return await self._end(attempt, RunState.RUN_STATE_CANCELLED)
            except LeaseLost:
                raise
            except Exception:
                return await self._end(attempt, RunState.RUN_STATE_FAILED, _internal(run_id))
            else:
                return await self._complete(attempt, made)

    async def _attempt(self, run: Run, attempt: Attempt, cause: RunError | None, cancelled: asyncio.Event) -> MadeModel:
        """One attempt, to the end of the recipe."""
        if run.state != RunState.RUN_STATE_RUNNING:
            running = RunState.RUN_STATE_RUNNING
            await self._append(attempt, running, run.step)
        call = Caller(
            patience_s=self._settings.patience_s, timeout_s=self._settings.call_timeout_s, cancelled=cancelled
        )
        peers = Peers(self._suite, call, attempt.request_id)
        active = ActiveRun(run, attempt, self._runs, peers, cause)
        try:
            with span(f"run {run.recipe}"):
                return await RECIPES[run.recipe].run(getattr(run.config, run.recipe), active, peers)
        finally:
            await active.settle()

    async def _complete(self, attempt: Attempt, made: MadeModel) -> None:
        run = await self._runs.get(attempt.run_id)
        config = run.config.SerializeToString(deterministic=True)
        model = NewModel(
            model_id=run.run_id,
            run_id=run.run_id,
            display_name=run.display_name or run.recipe,
            sampler_uri=run.sampler_uri,
            checkpoint_uri=run.checkpoint_uri,
            parents=made.parents,
            dataset_fingerprint=made.dataset_fingerprint,
            config_sha256=sha256(config).hexdigest(),
            metrics=run.metrics,
        )
        await self._registry.add_model(model)
        await self._end(attempt, RunState.RUN_STATE_COMPLETED)

    async def _end(self, attempt: Attempt, state: "RunState.ValueType", error: RunError | None = None) -> None:
        run = await self._runs.get(attempt.run_id)
        await self._append(attempt, state, run.step, error)
        await self._free(attempt)

    async def _append(
        self, attempt: Attempt, state: "RunState.ValueType", step: int, error: RunError | None = None
    ) -> None:
        event = state_changed(state, step, error)
        await self._runs.append(attempt.run_id, self._owner, [event], RunChange(state=state, error=error))

    async def _free(self, attempt: Attempt) -> None:
        """Takes the attempt's model out of the trainer's memory; if the trainer is away, there is nothing to free."""
        call = Caller(patience_s=0, timeout_s=_CLEAN_UP_S, cancelled=asyncio.Event())
        try:
            await Peers(self._suite, call, attempt.request_id).trainer.delete(attempt.model_id)
        except CallFailed as failure:
            _log.info("the model of run %s stays in the trainer until it is idle: %s", attempt.run_id, failure)


def _internal(run_id: str) -> RunError:
    number = secrets.token_hex(6)
    _log.exception("run %s failed, error id %s", run_id, number)
    message = f"internal error {number}: the orchestrator's log has the details under this id"
    return RunError(reason="INTERNAL", message=message)

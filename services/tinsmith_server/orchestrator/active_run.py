"""A run while this process drives it: what a recipe asks of it and tells it.

The trainer knows the model of attempt n as the run's id, from the second attempt on with "-n" behind it. So nothing
that an earlier attempt, or a process that lost its lease, still sends can reach the model of a later one, and
checkpoints of attempts never collide. For the same reason request ids hold the attempt: within one, a repeated call
acts only once; a later one does its steps anew, with the same seeds and so the same results.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID, uuid5

from tinsmith.orchestrator.v1 import (
    CheckpointSaved,
    EvaluationCompleted,
    Notice,
    Recovered,
    Run,
    RunError,
    RunEvent,
    StepCompleted,
    Transcript,
    TranscriptsLogged,
)
from tinsmith_server.orchestrator.peers import CallFailed, FreshModel, LoadedModel, Peers, StateLost, Weights
from tinsmith_server.orchestrator.store import RunChange, Runs, SavedCheckpoint

_NAMESPACE = UUID("6a0f6d0e-1f0c-5d0b-9b0e-7a5f1c3f2d11")
_CHECKPOINT_IS_BAD = frozenset(
    {"CHECKPOINT_CORRUPT", "CHECKPOINT_NOT_FOUND", "WEIGHTS_NOT_FINITE", "NO_GOOD_CHECKPOINT"}
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """One beginning of a run's driving, by one process."""

    run_id: str
    number: int
    """From 1."""
    owner: str
    """Holds the run's lease."""

    def request_id(self, call: str) -> str:
        """The id under which the call of this name may be repeated: uuid5(run, attempt and call)."""
        return str(uuid5(_NAMESPACE, f"{self.run_id}/{self.number}/{call}"))

    @property
    def model_id(self) -> str:
        """The trainer's name of this attempt's model."""
        return _model_id(self.run_id, self.number)

    @property
    def earlier_model_id(self) -> str:
        """That of the attempt before, which nobody uses any more; empty in the first."""
        return _model_id(self.run_id, self.number - 1) if self.number > 1 else ""


def _model_id(run_id: str, attempt: int) -> str:
    return run_id if attempt == 1 else f"{run_id}-{attempt}"


@dataclass(frozen=True, kw_only=True, slots=True)
class KeptAnswer:
    """An answer kept to be read."""

    prompt: str
    response: str
    reference: str
    reward: float
    advantage: float


@dataclass(frozen=True, kw_only=True, slots=True)
class MadeModel:
    """What a recipe says of the model that it made."""

    parents: Sequence[str]
    """Base model and checkpoints that it was made from."""
    dataset_fingerprint: str


class OpenedModel(NamedTuple):
    """A model as a run finds it."""

    model: LoadedModel
    weights: Weights
    """Its present weights."""
    steps_done: int


class ActiveRun:
    """One attempt at a run."""

    def __init__(self, run: Run, attempt: Attempt, runs: Runs, peers: Peers, cause: RunError | None) -> None:
        """`cause` is why the attempt before ended; None when this one was asked for."""
        self._run = run
        self._attempt = attempt
        self._runs = runs
        self._peers = peers
        self._cause = cause
        self._recording: asyncio.Task[Run] | None = None

    async def open_model(self, fresh: FreshModel) -> OpenedModel:
        """The model at the run's newest checkpoint that can be loaded, with its optimizer; else a fresh model."""
        if self._attempt.earlier_model_id:
            await self._peers.trainer.delete(self._attempt.earlier_model_id)
        for checkpoint in await self._runs.usable_checkpoints(self._attempt.run_id):
            model = await self._restored(checkpoint)
            if model is not None:
                return await self._opened(model, checkpoint)
        try:
            model = await self._create(fresh, "fresh")
        except StateLost as failure:
            if failure.error.reason in _CHECKPOINT_IS_BAD:  # that of the configuration: it stays bad
                raise CallFailed(failure.error.reason, failure.error.message) from failure
            raise
        return await self._opened(model, None)

    async def _restored(self, checkpoint: SavedCheckpoint) -> LoadedModel | None:
        """The model at a checkpoint; None, said in a notice, when it is damaged or gone."""
        try:
            return await self._create(checkpoint.checkpoint_uri, f"{checkpoint.step}")
        except StateLost as failure:
            if failure.error.reason not in _CHECKPOINT_IS_BAD:
                raise
            await self._runs.mark_unusable(checkpoint.checkpoint_uri)
            word = f"the checkpoint of step {checkpoint.step} can't be used, going back to an older one"
            await self._notice(checkpoint.step, f"{word}: {failure.error.message} [{failure.error.reason}]")
            return None

    async def _create(self, source: FreshModel | str, name: str) -> LoadedModel:
        request_id = self._attempt.request_id(f"CreateModel/{name}")
        return await self._peers.trainer.create(self._attempt.model_id, source, request_id)

    async def _opened(self, model: LoadedModel, checkpoint: SavedCheckpoint | None) -> OpenedModel:
        weights = await model.save()
        steps_done = checkpoint.step if checkpoint else 0
        change = RunChange(step=steps_done, checkpoint=checkpoint, forget_checkpoint=checkpoint is None)
        await self._append(self._news_of_opening(steps_done, checkpoint), change)
        return OpenedModel(model, weights, steps_done)

    def _news_of_opening(self, steps_done: int, checkpoint: SavedCheckpoint | None) -> list[RunEvent]:
        if self._cause is not None:
            uri = checkpoint.checkpoint_uri if checkpoint else ""
            recovered = Recovered(cause=self._cause, from_step=steps_done, checkpoint_uri=uri)
            return [RunEvent(step=steps_done, recovered=recovered)]
        if self._attempt.number > 1:
            return [RunEvent(step=steps_done, notice=Notice(message=f"goes on from step {steps_done}"))]
        return []

    async def step_completed(
        self, step: int, metrics: Mapping[str, float], kept: Sequence[KeptAnswer], weights: Weights
    ) -> None:
        """A step is done; `weights` are those after it, which are a checkpoint of the run if they can be trained on."""
        events = [RunEvent(step=step, step_completed=StepCompleted(metrics=metrics))]
        if kept:
            transcripts = [
                Transcript(
                    prompt=answer.prompt,
                    response=answer.response,
                    reference=answer.reference,
                    reward=answer.reward,
                    advantage=answer.advantage,
                )
                for answer in kept
            ]
            events.append(RunEvent(step=step, transcripts_logged=TranscriptsLogged(transcripts=transcripts)))
        checkpoint = _checkpoint(step, weights)
        if checkpoint is not None:
            saved = CheckpointSaved(
                checkpoint_uri=checkpoint.checkpoint_uri,
                sampler_uri=checkpoint.sampler_uri,
                adapter_sha256=checkpoint.adapter_sha256,
            )
            events.append(RunEvent(step=step, checkpoint_saved=saved))
        await self._append(events, RunChange(step=step, metrics=metrics, checkpoint=checkpoint))

    async def evaluated(self, steps_done: int, metrics: Mapping[str, float]) -> None:
        """An evaluation of the weights after so many steps is done."""
        event = RunEvent(step=steps_done, evaluation_completed=EvaluationCompleted(metrics=metrics))
        await self._append([event], RunChange(metrics=metrics))

    async def _notice(self, step: int, message: str) -> None:
        await self._append([RunEvent(step=step, notice=Notice(message=message))], RunChange())

    async def _append(self, events: Sequence[RunEvent], change: RunChange) -> None:
        """Begins to record events, after those before are recorded. The run goes on meanwhile: a record that is lost
        with the process is of steps that are done again."""
        await self.settle()
        record = self._runs.append(self._attempt.run_id, self._attempt.owner, events, change)
        self._recording = asyncio.ensure_future(record)

    async def settle(self) -> None:
        """Waits until everything is recorded; raises what kept it from being, for example LeaseLost."""
        recording, self._recording = self._recording, None
        if recording is not None:
            await recording


def _checkpoint(step: int, weights: Weights) -> SavedCheckpoint | None:
    if not weights.checkpoint_uri:
        return None
    return SavedCheckpoint(
        step=step,
        checkpoint_uri=weights.checkpoint_uri,
        sampler_uri=weights.sampler_uri,
        adapter_sha256=weights.adapter_sha256,
    )

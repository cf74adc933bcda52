"""Where a model is: in memory, or parked in storage until its next call.

Parked is what training goes on from to the bit: adapter, optimizer, step. Gradients that no step has applied are not
kept, so a model that holds some stays in memory.
"""

import asyncio
import logging
from dataclasses import dataclass
from typing import Protocol

from tinsmith_server.serving.errors import ServiceError
from tinsmith_server.storage import TRAINING, CheckpointDraft, CheckpointUri, LoraShape, Manifest
from tinsmith_server.trainer.backend import TrainableModel
from tinsmith_server.trainer.hosting.parked_states import ParkedStates

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What is known of a model wherever it is."""

    base_model: str
    shape: LoraShape
    step: int
    trainable_parameters: int

    @classmethod
    def of(cls, model: TrainableModel) -> "Facts":
        return cls(
            base_model=model.base_model,
            shape=model.shape,
            step=model.step,
            trainable_parameters=model.trainable_parameters,
        )


class Memory(Protocol):
    """The memory that models share."""

    async def restore(self, facts: Facts, state: Manifest) -> TrainableModel:
        """A parked model in memory; others may be parked for it."""
        ...


class Residence:
    """Where one model is. The coroutines run one at a time, in the model's call order."""

    def __init__(self, model_id: str, model: TrainableModel, *, memory: Memory, states: ParkedStates) -> None:
        self._model_id, self._memory, self._states = model_id, memory, states
        self._model: TrainableModel | None = model
        self._facts = Facts.of(model)
        self._state: Manifest | None = None

    @property
    def is_parked(self) -> bool:
        return self._model is None

    @property
    def facts(self) -> Facts:
        return self._facts if self._model is None else Facts.of(self._model)

    async def enter(self) -> TrainableModel:
        """The model, brought back if it was parked. Internal with reason PARKED_STATE_LOST."""
        if self._model is None:
            assert self._state is not None, "a model is in memory or parked"
            self._model = await self._memory.restore(self._facts, self._state)
            await self.forget()
        return self._model

    async def leave(self) -> bool:
        """Parks the model; False when it is not at rest or storage does not take it, and it stays in memory then."""
        if self._model is None or not self._model.is_at_rest:
            return False
        facts = Facts.of(self._model)
        uri = CheckpointUri(model_id=self._model_id, kind=TRAINING, name="parked")
        draft = CheckpointDraft(uri=uri, step=facts.step, base_model=facts.base_model, lora=facts.shape)
        try:
            files = await self._model.state_files(lifetime=None)
            self._state = await asyncio.to_thread(self._states.put, draft, files)
        except (ServiceError, OSError) as error:
            _log.warning("model %s stays in memory: %s", self._model_id, error)
            return False
        self._facts, self._model = facts, None
        return True

    async def forget(self) -> None:
        """Removes what was parked. What can't be removed goes with the process."""
        state, self._state = self._state, None
        if state is None:
            return
        try:
            await asyncio.to_thread(self._states.drop, state)
        except (ServiceError, OSError):
            _log.warning("could not remove the parked state of model %s", self._model_id, exc_info=True)

"""A model of the trainer, stepped through the public client."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

from tests.benchmarks.examples import Examples
from tests.benchmarks.peft_peer import ALPHA, RANK
from tinsmith.aio import Suite
from tinsmith.trainer.v1 import (
    AdamParams,
    CreateModelRequest,
    DeleteModelRequest,
    ForwardBackwardRequest,
    OptimStepRequest,
    SaveForSamplerRequest,
)
from tinsmith.types.v1 import LoraConfig

ADAM = AdamParams(learning_rate=1e-4)


@dataclass(frozen=True, kw_only=True, slots=True)
class Trainee:
    """Counts the seq_ids of its model."""

    suite: Suite
    model_id: str
    seq_ids: Iterator[int]

    @classmethod
    async def create(cls, suite: Suite, base_model: str, *, seed: int = 0) -> "Trainee":
        lora = LoraConfig(rank=RANK, alpha=ALPHA, seed=seed)
        answer = await suite.trainer.CreateModel(CreateModelRequest(base_model=base_model, lora=lora))
        return cls(suite=suite, model_id=answer.model.model_id, seq_ids=count(1))

    async def step(self, examples: Examples) -> None:
        """ForwardBackward and OptimStep, sent together. Building the request counts, as padding does for the peer."""
        await asyncio.gather(
            self.suite.trainer.ForwardBackward(self.forward_backward(examples)),
            self.suite.trainer.OptimStep(self.optim_step()),
        )

    def forward_backward(self, examples: Examples) -> ForwardBackwardRequest:
        return ForwardBackwardRequest(
            model_id=self.model_id, seq_id=next(self.seq_ids), loss=examples.loss, batch=examples.request()
        )

    def optim_step(self) -> OptimStepRequest:
        return OptimStepRequest(model_id=self.model_id, seq_id=next(self.seq_ids), adam=ADAM)

    async def save(self) -> str:
        """Weights for a sampler; returns their URI."""
        request = SaveForSamplerRequest(model_id=self.model_id, seq_id=next(self.seq_ids), name="bench")
        return (await self.suite.trainer.SaveForSampler(request)).checkpoint.uri

    async def delete(self) -> None:
        await self.suite.trainer.DeleteModel(DeleteModelRequest(model_id=self.model_id))

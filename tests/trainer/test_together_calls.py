"""Many models of many clients at once, through the public client: to the bit what each gives alone."""

import asyncio
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import serving
from tests.trainer.calls import ADAM, batch, create, forward_backward, optim_step
from tinsmith import TinsmithError
from tinsmith.aio import Suite
from tinsmith.arrays import ragged
from tinsmith.trainer.v1 import AdamParams, ForwardRequest, Model, SaveForSamplerRequest
from tinsmith.types.v1 import Column, DatumBatch, LoraConfig
from tinsmith_server.trainer import ROOM

STEPS = 4
LORAS = [
    LoraConfig(rank=4, alpha=8, seed=1),
    LoraConfig(rank=8, alpha=4, seed=2),
    LoraConfig(rank=4, alpha=8, seed=3, train_mlp=False),
    LoraConfig(rank=2, alpha=2, seed=4, train_attention=False),
    LoraConfig(rank=4, alpha=8, seed=5, train_unembedding=False),
]


def data(number: int, step: int) -> DatumBatch:
    chance = np.random.default_rng(100 * number + step)
    return batch([chance.integers(0, 250, length).tolist() for length in chance.integers(3, 30, 6)])


async def sha256(suite: Suite, model: Model) -> str:
    saved = await suite.trainer.SaveForSampler(SaveForSamplerRequest(model_id=model.model_id))
    return next(file.sha256 for file in saved.checkpoint.files if file.name == "adapter_model.safetensors")


async def send(suite: Suite, model: Model, number: int, seq_id: int) -> None:
    """Two ForwardBackwards, then an OptimStep with settings of its own, and so on."""
    step, place = divmod(seq_id - 1, 3)
    if place < 2:
        call = forward_backward(model, seq_id, batch=data(number, 2 * step + place), omit_logprobs=bool(number % 2))
        await suite.trainer.ForwardBackward(call)
    else:
        adam = AdamParams(learning_rate=1e-2 / (1 + number), weight_decay=0.01 * number, grad_clip_norm=2.0 * step)
        await suite.trainer.OptimStep(optim_step(model, seq_id, adam))


async def test_two_clients_interleaved_and_shuffled_get_the_adapters_of_sequential_calls(suite: Suite) -> None:
    """T-02"""
    expected = []
    for number, lora in enumerate(LORAS):
        model = await create(suite, f"alone-{number}", lora=lora)
        for seq_id in range(1, 3 * STEPS + 1):
            await send(suite, model, number, seq_id)
        expected.append(await sha256(suite, model))
    models = [await create(suite, f"together-{number}", lora=lora) for number, lora in enumerate(LORAS)]
    calls = [(number, seq_id) for number in range(len(LORAS)) for seq_id in range(1, 3 * STEPS + 1)]
    # Every call is sent by both clients, as after a lost answer.
    arriving = [(number, seq_id, which) for number, seq_id in calls for which in range(2)]
    random.Random(7).shuffle(arriving)
    async with Suite.connect(trainer=suite.addresses.trainer) as other:
        clients = (suite, other)
        await asyncio.gather(
            *(send(clients[which], models[number], number, seq_id) for number, seq_id, which in arriving)
        )
    assert [await sha256(suite, model) for model in models] == expected


def _floats(rows: list[list[float]]) -> Column:
    return Column(ragged=ragged(rows, np.float32))


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"weights": None}, "MISSING_LOSS_INPUT"),
        ({"target_tokens": Column(ragged=ragged([[9999] * 5, [1] * 4, [1]], np.int64))}, "TOKEN_OUT_OF_VOCABULARY"),
        ({"weights": _floats([[float("nan")] * 5, [1.0] * 4, [1.0]])}, "NON_FINITE_INPUT"),
        ({"weights": _floats([[1.0] * 4, [1.0] * 4, [1.0]])}, "BAD_TENSOR"),
    ],
)
async def test_a_bad_call_among_those_of_others_is_its_own_affair(
    suite: Suite, columns: dict[str, Any], reason: str
) -> None:
    async def run(names: list[str], *, with_bad: bool) -> list[str]:
        models = [await create(suite, name, lora=LORAS[number]) for number, name in enumerate(names)]
        for step in range(2):
            calls = [forward_backward(model, batch=data(i, step)) for i, model in enumerate(models)]
            if with_bad:
                calls.insert(1, forward_backward(models[1], batch=batch(**columns)))
            answers = await asyncio.gather(*map(suite.trainer.ForwardBackward, calls), return_exceptions=True)
            errors = [answer for answer in answers if isinstance(answer, TinsmithError)]
            assert [error.reason for error in errors] == ([reason] if with_bad else [])
            await asyncio.gather(*(suite.trainer.OptimStep(optim_step(model, adam=ADAM)) for model in models))
        return [await sha256(suite, model) for model in models]

    assert await run(["a", "b", "c"], with_bad=True) == await run(["d", "e", "f"], with_bad=False)


async def test_forward_in_company_leaves_no_gradient(suite: Suite) -> None:
    reader, learner = await create(suite, lora=LORAS[0]), await create(suite, lora=LORAS[1])
    read = ForwardRequest(model_id=reader.model_id, loss=forward_backward(reader).loss, batch=data(0, 0))
    alone = await suite.trainer.Forward(read)
    answers = await asyncio.gather(
        *(suite.trainer.Forward(read) for _ in range(3)),
        suite.trainer.ForwardBackward(forward_backward(learner, batch=data(1, 0))),
    )
    assert list(answers[:3]) == [alone] * 3
    with pytest.raises(TinsmithError) as refused:
        await suite.trainer.OptimStep(optim_step(reader))
    assert refused.value.reason == "NO_GRADIENTS"


@pytest.mark.parametrize("gradient_checkpointing", ["never", "always", "auto"])
async def test_memory_or_time_is_a_setting_and_the_adapters_are_the_same(
    tmp_path: Path, model_directory: Path, suite: Suite, gradient_checkpointing: str
) -> None:
    settings = {"base_models": (f"random={model_directory}",), "gradient_checkpointing": gradient_checkpointing}
    async with serving(ROOM, tmp_path / "other", **settings) as address, Suite.connect(trainer=address) as other:
        found = []
        for each in (suite, other):
            model = await create(each)
            for _ in range(2):
                await each.trainer.ForwardBackward(forward_backward(model, batch=data(0, 0)))
                await each.trainer.OptimStep(optim_step(model))
            found.append(await sha256(each, model))
    assert found[0] == found[1]

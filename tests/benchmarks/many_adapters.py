"""Many adapters of one base model in the sampler: decoded together, and what one more costs in memory."""

import asyncio
import time
from collections.abc import Callable, Sequence

import numpy as np

from tests.benchmarks.asking import ask, random_prompts
from tests.benchmarks.examples import Examples
from tests.benchmarks.report import Row, paired, row_of
from tests.benchmarks.service import Client, Service
from tests.benchmarks.setup import RANDOM, Setup
from tests.benchmarks.trainee import Trainee
from tinsmith.sampler.v1 import ModelRef

ADAPTERS = 32
TOKENS = 64
ROUNDS = 3


def trained_adapters(setup: Setup, count: int = 2 * ADAPTERS) -> list[ModelRef]:
    """Adapters that our trainer has made, each of one step on numbers of its own."""
    chance = np.random.default_rng(3)

    async def make(client: Client, seed: int) -> str:
        trainee = await Trainee.create(client.suite, RANDOM, seed=seed)
        await trainee.step(Examples(sequences=[chance.integers(0, setup.vocabulary(), 17)]))
        uri = await trainee.save()
        await trainee.delete()
        return uri

    with setup.service("trainer") as service, service.client() as client:
        return [ModelRef(checkpoint_uri=client.run(make(client, seed))) for seed in range(count)]


def adapter_rows(setup: Setup, service: Service, client: Client, adapters: Sequence[ModelRef]) -> list[Row]:
    """`adapters` are twice as many as are decoded together; the other half is new to the sampler."""
    known, new = adapters[:ADAPTERS], adapters[ADAPTERS:]
    return [
        _together(setup, client, known, answers=1, target=4.0),
        _together(setup, client, known[:8], answers=16, target=None),
        _memory(setup, service, client, new),
    ]


def _together(setup: Setup, client: Client, adapters: Sequence[ModelRef], *, answers: int, target: float | None) -> Row:
    """Tokens a second; one after the other means that an answer is there before the next is asked for."""
    chance = np.random.default_rng(4)
    tokens = TOKENS * setup.scale
    whole = len(adapters) * answers * tokens

    def measured(work: Callable[[], object]) -> float:
        began = time.perf_counter()
        work()
        return whole / (time.perf_counter() - began)

    async def one(adapter: ModelRef) -> None:
        [prompt] = random_prompts(chance, setup.vocabulary(), [32 * setup.scale])
        await ask(client.suite, adapter, [prompt], answers=answers, tokens=tokens)

    async def at_once() -> None:
        await asyncio.gather(*map(one, adapters))

    async def in_turn() -> None:
        for adapter in adapters:
            await one(adapter)

    return paired(
        setup.named(f"{len(adapters)} adapters x {answers} answers of {tokens} tokens, together"),
        "tokens/s",
        lambda: measured(lambda: client.run(at_once())),
        lambda: measured(lambda: client.run(in_turn())),
        peer="ours, one after the other",
        rounds=ROUNDS,
        target=target,
    )


def _memory(setup: Setup, service: Service, client: Client, adapters: Sequence[ModelRef]) -> Row:
    """Growth of the process by each adapter that it has not seen, beside the base's parameters."""
    base_bytes = sum(value.nbytes for value in setup.load().parameters())
    prompt = np.ones(8, np.int32)
    before = service.memory_bytes()
    for adapter in adapters:
        client.run(ask(client.suite, adapter, [prompt], answers=1, tokens=2))
    grown = (service.memory_bytes() - before) / len(adapters)
    return row_of(
        setup.named("memory of one more adapter, rank 8"),
        "MB",
        [(grown / 1e6, base_bytes / 1e6)],
        peer="the base's parameters",
        target=None,
        lower_is_better=True,
    )

"""Many tenants of one base model: eight models that train together, and what one more costs in memory."""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from statistics import median

import numpy as np

from tests.benchmarks import model as embedded
from tests.benchmarks.examples import Examples
from tests.benchmarks.peft_peer import PeftModel
from tests.benchmarks.report import Row, paired, row_of
from tests.benchmarks.service import Client, Service
from tests.benchmarks.setup import RANDOM, Setup
from tests.benchmarks.trainee import Trainee
from tinsmith import Suite

MODELS = 8
STEPS = 15
"""Of each model in a round: one step is too short to be timed."""
ROUNDS = 5


def tenant_rows(setup: Setup, service: Service, client: Client) -> list[Row]:
    return [*_together(setup, service, client), _memory(setup, service, client)]


def _together(setup: Setup, service: Service, client: Client) -> list[Row]:
    """Tokens a second of all models. One after the other: each model's step is answered before the next is sent."""
    chance = np.random.default_rng(0)
    base_model = embedded.NAME if setup.device == "cpu" else RANDOM
    vocabulary = setup.vocabulary(base_model)
    work = [
        Examples(sequences=[chance.integers(0, vocabulary, length + 1) for length in chance.integers(16, 33, 4)])
        for _ in range(MODELS)
    ]
    trainees = [client.run(Trainee.create(client.suite, base_model, seed=seed)) for seed in range(MODELS)]
    peer = PeftModel(setup.load(base_model), adapters=MODELS)
    tokens = STEPS * sum(examples.tokens for examples in work)
    figure = f"{'tinsmith-tiny: ' if base_model == embedded.NAME else ''}8 models x 4 sequences of 16 to 32 tokens"

    def one_by_one() -> float:
        return tokens / _seconds(lambda: client.run(_in_turn(trainees, work)))

    def together() -> float:
        return tokens / _seconds(lambda: client.run(_at_once(trainees, work)))

    def peft() -> float:
        steps = (peer.step([examples], adapter=number) for _ in range(STEPS) for number, examples in enumerate(work))
        return tokens / sum(steps)

    with ExitStack() as stack:
        clients = [stack.enter_context(Suite.connect(trainer=service.address)) for _ in range(MODELS)]
        pool = stack.enter_context(ThreadPoolExecutor(MODELS))

        def clients_together() -> float:
            return tokens / _seconds(lambda: list(pool.map(_train, clients, trainees, work)))

        def clients_one_by_one() -> float:
            return tokens / _seconds(lambda: [_train(*each) for each in zip(clients, trainees, work, strict=True)])

        rows = [
            _row(setup, f"{figure}, together", together, one_by_one, "ours, one after the other", 3.0),
            _row(
                setup,
                "the same, from 8 clients",
                clients_together,
                clients_one_by_one,
                "ours, one after the other",
                3.0,
            ),
            _row(setup, "the same, from one client", together, peft, "PEFT, one adapter after the other", None),
        ]
    for trainee in trainees:
        client.run(trainee.delete())
    return rows


def _row(
    setup: Setup,
    figure: str,
    ours: Callable[[], float],
    reference: Callable[[], float],
    peer: str,
    target: float | None,
) -> Row:
    return paired(setup.named(figure), "tokens/s", ours, reference, peer=peer, rounds=ROUNDS, target=target)


async def _in_turn(trainees: Sequence[Trainee], work: Sequence[Examples]) -> None:
    for _ in range(STEPS):
        for trainee, examples in zip(trainees, work, strict=True):
            await trainee.step(examples)


async def _at_once(trainees: Sequence[Trainee], work: Sequence[Examples]) -> None:
    """Each model's own loop waits for its own answers only."""

    async def loop(trainee: Trainee, examples: Examples) -> None:
        for _ in range(STEPS):
            await trainee.step(examples)

    await asyncio.gather(*map(loop, trainees, work))


def _train(client: Suite, trainee: Trainee, examples: Examples) -> None:
    """A tenant's own program, without asyncio: one call after the other."""
    for _ in range(STEPS):
        client.trainer.ForwardBackward(trainee.forward_backward(examples))
        client.trainer.OptimStep(trainee.optim_step())


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _memory(setup: Setup, service: Service, client: Client) -> Row:
    """Growth of the process by each of eight more models that have been trained, beside the base's parameters."""
    chance = np.random.default_rng(1)
    examples = Examples(sequences=[chance.integers(0, setup.vocabulary(), 33) for _ in range(4)])
    base_bytes = sum(value.nbytes for value in setup.load().parameters())
    trainees: list[Trainee] = []

    def grow() -> float:
        before = service.memory_bytes()
        for _ in range(MODELS):
            trainees.append(client.run(Trainee.create(client.suite, RANDOM)))
            client.run(trainees[-1].step(examples))
        return (service.memory_bytes() - before) / MODELS

    grow()
    grown = median(grow() for _ in range(3))
    for trainee in trainees:
        client.run(trainee.delete())
    return row_of(
        setup.named("memory of one more trained model, rank 8"),
        "MB",
        [(grown / 1e6, base_bytes / 1e6)],
        peer="the base's parameters",
        target=None,
        lower_is_better=True,
    )

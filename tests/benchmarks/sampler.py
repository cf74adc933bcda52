"""`make bench-sampler`: our sampler through gRPC beside `transformers` generate in this process, one thread each."""

import asyncio
import contextlib
import time
from collections.abc import Callable

import numpy as np
import torch

from tests.benchmarks import model as embedded
from tests.benchmarks.arrivals import Served, arrivals, served_by_generate, served_by_us
from tests.benchmarks.asking import Prompts, ask, random_prompts, stream
from tests.benchmarks.floors import decoding_floor
from tests.benchmarks.generate_peer import Generate
from tests.benchmarks.many_adapters import adapter_rows, trained_adapters
from tests.benchmarks.report import Row, paired, row_of
from tests.benchmarks.service import Client
from tests.benchmarks.setup import RANDOM, Setup, accelerator, processor
from tinsmith.aio import Suite
from tinsmith.sampler.v1 import ModelRef

ROUNDS = 5
BASE = ModelRef(base_model=RANDOM)
PROMPTS, ANSWERS, TOKENS, PROMPT_TOKENS = 16, 8, 64, 32


def rows() -> list[Row]:
    """The table: on the processor always, then on a GPU where there is one."""
    with processor() as setup:
        found = _rows(setup)
    if torch.cuda.is_available():
        with accelerator() as setup:
            found += [*_rows(setup), _floor(setup)]
    return found


def _rows(setup: Setup) -> list[Row]:
    adapters = trained_adapters(setup)
    peer = Generate(setup.load())
    with setup.service("sampler") as service, service.client() as client:
        found = [_one_request(setup, client, peer), *_random_arrivals(setup, client, peer), _first_token(setup, client)]
        if setup.device == "cpu":
            found.append(_demo(setup, client))
        return [*found, *adapter_rows(setup, service, client, adapters)]


def _one_request(setup: Setup, client: Client, peer: Generate) -> Row:
    """New tokens a second, and new prompts in each round; the peer in the batch that was its quickest."""
    ours, theirs = (np.random.default_rng(0) for _ in range(2))
    tokens = TOKENS * setup.scale

    def prompts(chance: np.random.Generator) -> Prompts:
        return random_prompts(chance, setup.vocabulary(), [PROMPT_TOKENS * setup.scale] * PROMPTS)

    def generate(rows: int) -> float:
        return peer.run_in_batches(prompts(theirs), answers=ANSWERS, tokens=tokens, rows=rows)

    generate(128)
    best = min((128, 64, 32), key=generate)
    return paired(
        setup.named(f"{PROMPTS} prompts x {ANSWERS} answers of {tokens} tokens"),
        "tokens/s",
        lambda: PROMPTS * ANSWERS * tokens / _ask(client, BASE, prompts(ours), ANSWERS, tokens),
        lambda: PROMPTS * ANSWERS * tokens / generate(best),
        peer=f"`transformers` generate, batches of {best}",
        rounds=ROUNDS,
        target=1.0,
    )


def _demo(setup: Setup, client: Client) -> Row:
    prompts = [np.array(prompt, np.int32) for prompt in embedded.prompts(50)]
    peer = Generate(setup.load(embedded.NAME))
    model = ModelRef(base_model=embedded.NAME)
    return paired(
        "tinsmith-tiny: the demo's 50 prompts x 8 answers of 5 tokens",
        "tokens/s",
        lambda: 2000 / _ask(client, model, prompts, 8, 5),
        lambda: 2000 / peer.run(prompts, answers=8, tokens=5),
        peer="`transformers` generate, one batch",
        rounds=ROUNDS,
        target=1.0,
    )


def _ask(client: Client, model: ModelRef, prompts: Prompts, answers: int, tokens: int) -> float:
    """Seconds of one request."""
    began = time.perf_counter()
    client.run(ask(client.suite, model, prompts, answers=answers, tokens=tokens))
    return time.perf_counter() - began


def _random_arrivals(setup: Setup, client: Client, peer: Generate) -> list[Row]:
    """The same requests at the same times for all three; others in each round. The first round warms up."""
    chance = np.random.default_rng(0)
    rounds = []
    for _ in range(3):
        coming = arrivals(chance, setup)
        ours = client.run(served_by_us(client.suite, BASE, coming))
        rounds.append((ours, *(served_by_generate(peer, coming, at_most=most) for most in (len(coming), 1))))

    def row(figure: str, unit: str, of: Callable[[Served], float], queue: int, target: float | None, peer: str) -> Row:
        pairs = [(of(served[0]), of(served[queue])) for served in rounds[1:]]
        is_time = unit == "s"
        return row_of(setup.named(figure), unit, pairs, peer=peer, target=target, lower_is_better=is_time)

    batched, single = "`transformers` generate on all that waits", "`transformers` generate, each request alone"
    figure = "64 requests of mixed lengths, arriving at random"
    return [
        row(figure, "tokens/s", lambda served: served.tokens_per_s, 1, 3.0, batched),
        row("the same", "tokens/s", lambda served: served.tokens_per_s, 2, None, single),
        row("the same: mean time to the whole answer", "s", lambda served: served.mean_wait_s, 1, None, batched),
    ]


def _first_token(setup: Setup, client: Client) -> Row:
    """A stream of 200 tokens while eight callers keep four answers of 128 tokens each at work."""
    chance = np.random.default_rng(5)

    async def measured() -> list[tuple[float, float]]:
        callers = [asyncio.create_task(_keep_asking(client.suite, setup, chance)) for _ in range(8)]
        await asyncio.sleep(0.5)
        times = []
        for _ in range(ROUNDS):
            [prompt] = random_prompts(chance, setup.vocabulary(), [64])
            times.append(await stream(client.suite, BASE, prompt, tokens=200))
        for caller in callers:
            caller.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await caller
        return times

    return row_of(
        setup.named("first token of a stream of 200, 8 callers at work"),
        "ms",
        [(1000 * first, 1000 * whole) for first, whole in client.run(measured())],
        peer="ours, to the last token",
        target=0.3,
        lower_is_better=True,
    )


async def _keep_asking(suite: Suite, setup: Setup, chance: np.random.Generator) -> None:
    while True:
        prompts = random_prompts(chance, setup.vocabulary(), [64])
        await ask(suite, BASE, prompts, answers=4, tokens=128)


def _floor(setup: Setup) -> Row:
    rows, tokens, prompt = 128, 256, 64
    chance = np.random.default_rng(6)
    with setup.service("sampler") as service, service.client() as client:

        def seconds() -> float:
            return _ask(client, BASE, random_prompts(chance, setup.vocabulary(), [prompt] * rows), 1, tokens)

        seconds()
        return decoding_floor(setup, steps=tokens, rows=rows, context=prompt + tokens // 2, seconds=seconds)

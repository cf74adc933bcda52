"""`make bench-trainer`: our trainer through gRPC beside PEFT in this process, one thread each."""

import time
from collections.abc import Callable

import numpy as np
import torch

from tests.benchmarks import model as embedded
from tests.benchmarks.examples import Examples
from tests.benchmarks.floors import training_floor
from tests.benchmarks.peft_peer import PeftModel
from tests.benchmarks.report import Row, paired
from tests.benchmarks.service import Client
from tests.benchmarks.setup import RANDOM, Setup, accelerator, processor
from tests.benchmarks.tenants import tenant_rows
from tests.benchmarks.trainee import Trainee

ROUNDS = 5
PADDED = "PEFT, one padded micro-batch"
SORTED = "PEFT, micro-batches of alike lengths"
ANSWERS_ONLY = "PEFT, its head on the answers only"


def rows() -> list[Row]:
    """The table: on the processor always, then on a GPU where there is one."""
    with processor() as setup:
        found = _rows(setup)
    if torch.cuda.is_available():
        with accelerator() as setup:
            found += _rows(setup)
    return found


def _rows(setup: Setup) -> list[Row]:
    with setup.service("trainer") as service, service.client() as client:
        return [*_uneven_work(setup, client), *tenant_rows(setup, service, client)]


def _uneven_work(setup: Setup, client: Client) -> list[Row]:
    """Tokens a second of a forward and backward pass and an optimizer step."""
    chance = np.random.default_rng(0)
    scale, vocabulary = setup.scale, setup.vocabulary()
    uniform, ragged = _uniform(chance, vocabulary, 128 * scale), _ragged(chance, vocabulary, scale)
    groups = _groups(chance, vocabulary, scale)
    bench = _Bench(setup, client, RANDOM)
    found = [
        bench.row(f"16 sequences of {128 * scale} tokens", uniform, PADDED, lambda it: it.step([uniform]), target=1.0),
        bench.row(
            f"64 sequences of {16 * scale} to {400 * scale} tokens, log-normal",
            ragged,
            PADDED,
            lambda it: it.step([ragged]),
            target=1.5,
        ),
        bench.row("the same", ragged, SORTED, lambda it: it.step(ragged.by_length(4096 * scale)), target=None),
        bench.row(
            f"8 groups of 8 answers of {64 * scale} tokens, prompts of {128 * scale}",
            groups,
            PADDED,
            lambda it: it.step([groups]),
            target=1.5,
        ),
        bench.row("the same", groups, ANSWERS_ONLY, lambda it: it.step([groups], judged=64 * scale), target=None),
    ]
    if setup.device != "cpu":
        found.append(training_floor(setup, uniform, bench.ours))
    if setup.device == "cpu":
        demo = _demo(np.random.default_rng(0))
        tiny = _Bench(setup, client, embedded.NAME)
        figure = "tinsmith-tiny: the demo's 50 prompts x 8 answers of 5 tokens"
        found.append(tiny.row(figure, demo, PADDED, lambda it: it.step([demo]), target=1.0))
    return found


class _Bench:
    """A model of ours and the peer's on the same base."""

    def __init__(self, setup: Setup, client: Client, base_model: str) -> None:
        self._setup, self._client = setup, client
        self._trainee = client.run(Trainee.create(client.suite, base_model))
        self._peer = PeftModel(setup.load(base_model))

    def row(
        self,
        figure: str,
        examples: Examples,
        peer: str,
        reference: Callable[[PeftModel], float],
        *,
        target: float | None,
    ) -> Row:
        return paired(
            self._setup.named(figure),
            "tokens/s",
            lambda: examples.tokens / self.ours(examples),
            lambda: examples.tokens / reference(self._peer),
            peer=peer,
            rounds=ROUNDS,
            target=target,
        )

    def ours(self, examples: Examples) -> float:
        """Seconds of a step."""
        began = time.perf_counter()
        self._client.run(self._trainee.step(examples))
        return time.perf_counter() - began


def _uniform(chance: np.random.Generator, vocabulary: int, length: int) -> Examples:
    return Examples(sequences=[chance.integers(0, vocabulary, length + 1) for _ in range(16)])


def _ragged(chance: np.random.Generator, vocabulary: int, scale: int) -> Examples:
    """Log-normal around 80 tokens, cut off at 16 and 400: a few long ones among many short ones."""
    lengths = np.clip(chance.lognormal(np.log(80), 0.9, 64), 16, 400).astype(int)
    return Examples(sequences=[chance.integers(0, vocabulary, length * scale + 1) for length in lengths])


def _groups(chance: np.random.Generator, vocabulary: int, scale: int) -> Examples:
    """Answers of one length, so that sharing the prompt is all there is to win."""
    sequences = []
    for _ in range(8):
        prompt = chance.integers(0, vocabulary, 128 * scale)
        sequences += [np.concatenate([prompt, chance.integers(0, vocabulary, 64 * scale)]) for _ in range(8)]
    return Examples(sequences=sequences, prompt=128 * scale, advantages=chance.choice([-0.5, 0.5], 64).tolist())


def _demo(chance: np.random.Generator) -> Examples:
    sequences = [
        np.concatenate([prompt, chance.integers(0, embedded.VOCABULARY, 5)])
        for prompt in embedded.prompts(50)
        for _ in range(8)
    ]
    return Examples(sequences=sequences)

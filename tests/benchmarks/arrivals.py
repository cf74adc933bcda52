"""Requests of mixed lengths that arrive at random, and two ways to serve them with `transformers` generate."""

import asyncio
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tests.benchmarks.asking import ask
from tests.benchmarks.generate_peer import Generate
from tests.benchmarks.setup import Setup
from tinsmith.aio import Suite
from tinsmith.sampler.v1 import ModelRef

REQUESTS = 64
MEAN_GAP_S = 0.005
"""Faster than either can answer: what is measured is work, not waiting for the next request."""
MEDIAN_TOKENS = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Arrival:
    """One request: a prompt that wants one answer of a certain length."""

    at_s: float
    """Since the first one could come."""
    prompt: NDArray[np.int32]
    tokens: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Served:
    """How it went."""

    tokens_per_s: float
    """Of answers, from the beginning to the last answer."""
    mean_wait_s: float
    """From a request's arrival to its whole answer."""


def arrivals(chance: np.random.Generator, setup: Setup) -> list[Arrival]:
    """A Poisson process; prompts and answers log-normal around 64 tokens, between 16 and 256."""

    def lengths() -> NDArray[np.int64]:
        drawn = np.clip(chance.lognormal(np.log(MEDIAN_TOKENS), 0.8, REQUESTS), 16, 256)
        return drawn.astype(np.int64) * setup.scale

    times = np.cumsum(chance.exponential(MEAN_GAP_S, REQUESTS))
    return [
        Arrival(at_s=at, prompt=chance.integers(0, setup.vocabulary(), prompt, np.int32), tokens=int(tokens))
        for at, prompt, tokens in zip(times, lengths(), lengths(), strict=True)
    ]


async def served_by_us(suite: Suite, model: ModelRef, coming: Sequence[Arrival]) -> Served:
    """Each request is sent when it arrives, as a call of its own."""
    began = time.perf_counter()

    async def one(arrival: Arrival) -> float:
        await asyncio.sleep(arrival.at_s - (time.perf_counter() - began))
        await ask(suite, model, [arrival.prompt], answers=1, tokens=arrival.tokens)
        return time.perf_counter() - began

    return _served(coming, await asyncio.gather(*map(one, coming)))


def served_by_generate(peer: Generate, coming: Sequence[Arrival], *, at_most: int) -> Served:
    """A queue before generate: all that waits (at most so many requests) is padded to one batch and generated to the
    longest answer wanted; then the next. Requests can neither join nor leave a batch at work."""
    began = time.perf_counter()
    waiting, ends = list(coming), []
    while waiting:
        time.sleep(max(0.0, waiting[0].at_s - (time.perf_counter() - began)))
        now = time.perf_counter() - began
        batch = [arrival for arrival in waiting if arrival.at_s <= now][:at_most]
        waiting = waiting[len(batch) :]
        peer.run([arrival.prompt for arrival in batch], answers=1, tokens=max(arrival.tokens for arrival in batch))
        ends += [time.perf_counter() - began] * len(batch)
    return _served(coming, ends)


def _served(coming: Sequence[Arrival], ends: Sequence[float]) -> Served:
    waits = [end - arrival.at_s for arrival, end in zip(coming, ends, strict=True)]
    tokens = sum(arrival.tokens for arrival in coming)
    return Served(tokens_per_s=tokens / max(ends), mean_wait_s=statistics.mean(waits))

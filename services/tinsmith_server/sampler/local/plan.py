"""Cuts a request into batches. The cut depends on the request and the limits only, and so does what comes out.

Equal prompts are prefilled once and their answers share the cache. Prompts of like length go together, because a batch
is padded to its longest prompt.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tinsmith_server.sampler.ragged import Ragged

_PADDING_SLACK = 2
"""A batch may be padded to this many times its own tokens before it is cut."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchLimits:
    """How large a batch may be."""

    rows: int
    """Most answers decoded together."""
    prompt_tokens: int
    """Most prompt tokens held together, padding included; a longer prompt is alone."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Distinct:
    """The different rows of a request."""

    rows: tuple[NDArray[np.int32], ...]
    index: NDArray[np.int64]
    """Which of `rows` each row of the request is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodePlan:
    """One batch: which prompts, and which answers continue them."""

    prompts: tuple[NDArray[np.int32], ...]
    prompt_of_row_B: NDArray[np.int64]
    """Sorted."""
    answers_B: NDArray[np.int64]
    """Number of each row's answer in the request: prompt * num_samples + member."""


def distinct(prompts: Ragged) -> Distinct:
    """Finds equal prompts."""
    seen: dict[bytes, int] = {}
    index = [seen.setdefault(row.tobytes(), len(seen)) for row in prompts]
    rows = [np.frombuffer(key, np.int32).copy() for key in seen]
    return Distinct(rows=tuple(rows), index=np.array(index, np.int64))


def by_length(lengths: Sequence[int], copies: Sequence[int], limits: BatchLimits) -> Iterator[list[int]]:
    """Groups prompts of like length within `limits`; `copies` is the number of answers of each."""
    group: list[int] = []
    rows = tokens = 0
    for item in sorted(range(len(lengths)), key=lambda item: (lengths[item], item)):
        padded = (len(group) + 1) * lengths[item]
        wasteful = padded > _PADDING_SLACK * (tokens + lengths[item]) and padded > limits.prompt_tokens // 16
        if group and (rows + copies[item] > limits.rows or padded > limits.prompt_tokens or wasteful):
            yield group
            group, rows, tokens = [], 0, 0
        group.append(item)
        rows += copies[item]
        tokens += lengths[item]
    if group:
        yield group


def decode_plans(prompts: Distinct, num_samples: int, limits: BatchLimits) -> Iterator[DecodePlan]:
    """The batches of a request. A prompt with more answers than a batch may have is prefilled once a batch."""
    members = np.arange(num_samples)
    order = np.argsort(prompts.index, kind="stable")
    repeats = np.split(order, np.cumsum(np.bincount(prompts.index))[:-1])
    wanted = [(places[:, None] * num_samples + members).reshape(-1) for places in repeats]
    chunks = [(item, part) for item, answers in enumerate(wanted) for part in _split(answers, limits.rows)]
    lengths = [len(prompts.rows[item]) for item, _ in chunks]
    for group in by_length(lengths, [len(answers) for _, answers in chunks], limits):
        sizes = [len(chunks[place][1]) for place in group]
        yield DecodePlan(
            prompts=tuple(prompts.rows[chunks[place][0]] for place in group),
            prompt_of_row_B=np.repeat(np.arange(len(group)), sizes),
            answers_B=np.concatenate([chunks[place][1] for place in group]),
        )


def _split(answers: NDArray[np.int64], most: int) -> list[NDArray[np.int64]]:
    return [answers[start : start + most] for start in range(0, len(answers), most)]

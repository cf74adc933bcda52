"""Continuous batching: the answers of all requests to one base model are decoded together, step by step.

Requests join the batch when their prompts have been read and leave it as they end; answers with different adapters and
with none are rows of the same matrix products. Between two decoding steps at most a piece of one prompt is read, so
that a long prompt holds nobody up for long.

An answer is a function of the weights and the request, bit for bit, whatever else is in the batch, whether its prompt
came from the cache, and whether it was interrupted. That holds because
- products are computed with numbers of rows for which a row's bits do not depend on the others (`row_products.py`,
  verified at load on the model's own matrices by `calibration.py`),
- attention sums in an order given by positions alone (`attention.py`),
- an adapter's term is never merged into the weights (`adapter_rows.py`),
- a draw depends on (seed, answer, token index) and the row's logits (`philox.py`, `choice.py`).
Where the machine's library allows no such products, requests are decoded one after the other, without a cache, and the
log says so.

Order: the oldest waiting request starts first; where tenants are known, they take turns. A request that has started
and has no answer under way comes before all that wait, so that it ends however many come. When it has no room, the
youngest answers of the request that holds the most are put back, at most half of them, to be continued later. So a
small request does not wait for the end of a large one.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tinsmith_server.sampler.engine.attention import PAGE
from tinsmith_server.sampler.engine.budget import EngineLimits
from tinsmith_server.sampler.engine.job import DecodeJob
from tinsmith_server.sampler.engine.model import LlamaFamilyModel
from tinsmith_server.sampler.engine.prefill import Prefill, Unread
from tinsmith_server.sampler.engine.running_batch import RunningBatch, Start
from tinsmith_server.sampler.local.plan import BatchLimits, by_length
from tinsmith_server.sampler.local.waiting_line import WaitingLine

_LEAST_PART = 16
"""A group of a request that has rows already is not cut into smaller parts than this."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Reading:
    """Groups whose prompts are read together."""

    prefill: Prefill
    starts: Sequence[Start]


class DecodingEngine:
    """See the module's text. Runs on the torch thread; other threads may read `running` and `lacking`."""

    def __init__(self, model: LlamaFamilyModel, limits: EngineLimits) -> None:
        self.model, self._limits = model, limits
        self._batch = RunningBatch(model, limits)
        self._readings: deque[_Reading] = deque()
        self._numbers = 0
        self.lacking = ""
        """What a waiting request waits for, in words; empty when none waits."""

    @property
    def running(self) -> int:
        """Requests at work."""
        return len(self._batch.jobs)

    @property
    def spare(self) -> int:
        """Requests that may join those at work."""
        return 0 if self.lacking and self.running else self._limits.jobs - self.running

    @property
    def places_taken(self) -> int:
        """Places in KV memory that answers under way have taken."""
        return self._batch.budget.taken

    @property
    def free_rows(self) -> int:
        """Answers that may still start."""
        return self._batch.free_rows

    @property
    def cached_bytes(self) -> int:
        """Memory of the prefix cache."""
        return self._batch.cache.held_bytes

    def check(self, job: DecodeJob) -> None:
        """Raises InvalidArgument with reason KV_BUDGET_EXCEEDED for a job that could never start. Any thread."""
        self._batch.budget.check(job)

    def admit(self, line: WaitingLine) -> None:
        """Starts what there is room for, and forgets those whose callers have gone."""
        self._drop_abandoned()
        starts = list(self._starting(line))
        limits = BatchLimits(rows=self._limits.rows, prompt_tokens=self._limits.prefill_tokens)
        for together in by_length([len(start.group.tokens) for start in starts], [1] * len(starts), limits):
            self._read([starts[place] for place in together])

    def turn(self) -> None:
        """Reads a piece of a prompt and decodes one token of every row."""
        if self._readings:
            reading = self._readings.popleft()
            reading.prefill.read(self._limits.prefill_tokens)
            if reading.prefill.tokens_left:
                self._readings.append(reading)
            else:
                self._batch.begin(reading.prefill, reading.starts)
        if len(self._batch):
            self._batch.step(crowded=bool(self.lacking or self._readings))

    def abandon(self, error: Exception) -> None:
        """Answers the callers of all requests at work with `error`, and starts afresh, without cached pages."""
        for job in self._batch.jobs.values():
            job.settle(error=error)
        self._batch = RunningBatch(self.model, self._limits)
        self._readings.clear()
        self.lacking = ""

    def _drop_abandoned(self) -> None:
        for job in [job for job in self._batch.jobs.values() if job.abandoned]:
            self._batch.end(job)
        for reading in list(self._readings):
            if all(start.job.number not in self._batch.jobs for start in reading.starts):
                self._readings.remove(reading)
                for start in reading.starts:
                    self._batch.forget(start.ids)

    def _starting(self, line: WaitingLine) -> Iterator[Start]:
        """Gives rows to jobs at work that have none, then to waiting ones, then to further groups of those at work.

        Sets `lacking` once, at the end.
        """
        for idle in [job for job in self._batch.jobs.values() if job.groups and not job.rows]:
            rows = self._room_of(idle)
            if not rows:
                return
            yield self._batch.start(idle, rows)
        while (job := line.first(self)) is not None and self.running < self._limits.jobs:
            assert isinstance(job, DecodeJob)
            rows = self._room_of(job)
            if not rows:
                return
            line.take(self, job)
            self._numbers += 1
            job.number = self._numbers
            self._batch.jobs[job.number] = job
            yield self._batch.start(job, rows)
        while more := [job for job in self._batch.jobs.values() if job.groups]:
            job = min(more, key=lambda each: each.rows)
            rows = self._batch.room(job)
            if rows < (min(_LEAST_PART, len(job.groups[0].answers)) if job.rows else 1):
                self.lacking = "answers that run fill the batch or the KV memory"
                return
            yield self._batch.start(job, rows)
        waits = line.first(self) is not None
        self.lacking = "as many requests are decoded as this sampler takes at a time" if waits else ""

    def _room_of(self, job: DecodeJob) -> int:
        """How many answers of a job without rows may start now; 0 sets `lacking`."""
        rows = self._batch.room(job)
        if not rows:
            rows = self._make_room(job)
        if not rows:
            self.lacking = "answers of other requests fill the batch or the KV memory"
        return rows

    def _make_room(self, job: DecodeJob) -> int:
        """Puts answers of the largest request back; how many of the waiting job's may start then."""
        largest = max(self._batch.jobs.values(), key=lambda each: each.rows, default=None)
        if largest is not None:
            self._batch.put_back(largest, min(largest.rows // 2, len(job.groups[0].answers)))
        return self._batch.room(job)

    def _read(self, starts: Sequence[Start]) -> None:
        unread = []
        for start in starts:
            pages = self._batch.cache.find(start.job.pages_of, start.group.tokens)
            start.job.note_cached(start.group, PAGE * len(pages))
            unread.append(Unread(tokens=start.group.tokens, adapter=start.job.adapter, pages=pages))
        self._readings.append(_Reading(prefill=Prefill(self.model, unread), starts=starts))

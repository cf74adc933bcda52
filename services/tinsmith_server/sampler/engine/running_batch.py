"""The answers under way: their rows in the table and the racks, and what happens to them at every token."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tinsmith_server.sampler.engine.attention import PAGE
from tinsmith_server.sampler.engine.budget import Budget, EngineLimits, size_of
from tinsmith_server.sampler.engine.diverged import diverged
from tinsmith_server.sampler.engine.job import DecodeJob, Group
from tinsmith_server.sampler.engine.model import LlamaFamilyModel
from tinsmith_server.sampler.engine.prefill import Prefill
from tinsmith_server.sampler.engine.prefix_cache import PrefixCache
from tinsmith_server.sampler.engine.rack import SizeClass
from tinsmith_server.sampler.engine.racks import Racks
from tinsmith_server.sampler.engine.row_plan import RowPlan, Top
from tinsmith_server.sampler.engine.row_table import RowTable
from tinsmith_server.sampler.request import Step, StopReason

_COMPACT_AT = 1 / 16
"""Ended rows leave the racks when they are this part of them, or when others wait: moving is not free."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """A group that has its rows, and is being read."""

    job: DecodeJob
    group: Group
    prompt: NDArray[np.int32]
    """What the group's answers continue; the group's own tokens may have some of an answer behind it."""
    size: SizeClass
    ids: NDArray[np.int64]
    """Rows of its answers in the table."""


class RunningBatch:
    """Rows of all jobs of an engine."""

    def __init__(self, model: LlamaFamilyModel, limits: EngineLimits) -> None:
        self._model, self._limits = model, limits
        self.budget = Budget(limits, model.token_bytes)
        self.cache = PrefixCache(limits.cache_bytes)
        self._table = RowTable(limits.rows)
        self._racks = Racks(model)
        self._places = np.zeros(limits.rows, np.int64)
        self._starts = np.full(limits.rows, None, object)
        self._prompt_lengths = np.zeros(limits.rows, np.int64)
        self._plan: RowPlan | None = None
        self.jobs: dict[int, DecodeJob] = {}
        """By their numbers; unfinished ones."""

    def __len__(self) -> int:
        """Rows that a step decodes."""
        return len(self._racks.ids)

    @property
    def free_rows(self) -> int:
        """Answers that may still start."""
        return self._table.free

    def room(self, job: DecodeJob) -> int:
        """How many answers of the job's next group may start."""
        return self.budget.fitting(job, job.groups[0], self._table.free)

    def start(self, job: DecodeJob, rows: int) -> Start:
        """Gives `rows` answers of the job's next group their rows; they are decoded once their prompt has been read."""
        group, rest = job.groups.popleft().split(rows)
        if rest is not None:
            job.groups.appendleft(rest)
        answers, samples = group.answers, job.request.num_samples
        drawn = 0 if group.interrupted is None else len(group.interrupted.tokens)
        ids = self._table.add(
            job=job.number,
            answers=answers,
            seeds=job.request.seeds[answers // samples],
            members=answers % samples,
            limit=job.limit(len(group.tokens) - drawn),
        )
        if group.interrupted is not None:
            self._table.resume(int(ids[0]), group.interrupted)
        size = size_of(job, group, rows=rows)
        self._places[ids] = -(-self.budget.of_group(group, size, rows=rows) // rows)
        self.budget.taken += int(self._places[ids].sum())
        job.rows += rows
        start = Start(job=job, group=group, prompt=group.tokens[: len(group.tokens) - drawn], size=size, ids=ids)
        self._starts[ids], self._prompt_lengths[ids] = start, len(start.prompt)
        return start

    def begin(self, prefill: Prefill, starts: Sequence[Start]) -> None:
        """Draws the first token of groups whose prompts have been read, and decodes them from the next step on.

        `starts` are the prefill's sequences; those whose jobs have ended meanwhile are forgotten.
        """
        for start in starts:
            if start.job.number not in self.jobs:
                self.forget(start.ids)
        alive = [(number, start) for number, start in enumerate(starts) if start.job.number in self.jobs]
        if not alive:
            return
        for number, start in alive:
            self.cache.keep(start.job.pages_of, start.group.tokens, partial(prefill.page_of, number))
        sequence_B = np.repeat([number for number, _ in alive], [len(start.ids) for _, start in alive])
        ids = np.concatenate([start.ids for _, start in alive])
        logits_BV = prefill.logits()[self._model.on_device(sequence_B)]
        self._draw(RowPlan(self.jobs, ids, self._table, self._model), logits_BV)
        self._seat(prefill, starts, sequence_B, ids)

    def _seat(
        self, prefill: Prefill, starts: Sequence[Start], sequence_B: NDArray[np.int64], ids: NDArray[np.int64]
    ) -> None:
        """Puts rows that go on after their first token into the racks."""
        going_B = ~self._table.done[ids]
        for size in {start.size for start in starts}:
            chosen_B = going_B & np.array([start.size == size for start in starts])[sequence_B]
            if chosen_B.any():
                self._racks.add(prefill, sequence_B[chosen_B], ids[chosen_B], size)
        self.forget(ids[~going_B])
        self._plan = None

    def step(self, *, crowded: bool) -> None:
        """Decodes one token of every row; `crowded` says that others wait for the places of ended rows."""
        if self._plan is None:
            self._drop(self._table.done[self._racks.ids])
            if not len(self):
                return
            self._plan = RowPlan(self.jobs, self._racks.ids, self._table, self._model)
        self._draw(self._plan, self._racks.step(self._table.last(self._racks.ids), self._plan.adapters))
        done = self._table.done[self._racks.ids]
        if done.any() and (crowded or done.mean() >= _COMPACT_AT):
            self._drop(done)

    def put_back(self, job: DecodeJob, rows: int) -> None:
        """Interrupts up to `rows` answers of the job, the youngest, to be continued later."""
        ids = self._racks.ids
        own = np.flatnonzero((self._table.job[ids] == job.number) & ~self._table.done[ids])
        places = own[np.argsort(self._table.drawn[ids[own]], kind="stable")][:rows]
        for place in places.tolist():
            row = int(ids[place])
            group = Group(
                tokens=self._sequence(row), answers=self._table.answer[[row]], interrupted=self._table.interrupted(row)
            )
            job.groups.append(group)
        self._drop(np.isin(np.arange(len(ids)), places))

    def end(self, job: DecodeJob) -> None:
        """Forgets a job and its rows in the racks; those that are being read are their reader's."""
        self.jobs.pop(job.number, None)
        self._drop(self._table.job[self._racks.ids] == job.number)

    def forget(self, ids: NDArray[np.int64]) -> None:
        """Takes rows back that are in no rack."""
        numbers, counts = np.unique(self._table.job[ids], return_counts=True)
        for number, rows in zip(numbers.tolist(), counts.tolist(), strict=True):
            if number in self.jobs:
                self.jobs[number].rows -= rows
        self.budget.taken -= int(self._places[ids].sum())
        self._starts[ids] = None
        self._table.remove(ids)

    def _draw(self, plan: RowPlan, logits_BV: Tensor) -> None:
        ids, table = plan.ids, self._table
        tokens_B, logprobs_B, tops = plan.draw(logits_BV)
        table.write(ids, tokens_B, logprobs_B)
        reasons_B = plan.reasons(tokens_B)
        self._refuse_diverged(plan, logprobs_B)
        ended_B = reasons_B != StopReason.NONE
        for number, job in enumerate(plan.jobs):
            own_B = plan.job_of_row_B == number
            if job.number in self.jobs and self._is_due(job, own_B & ended_B):
                self._tell(job, np.flatnonzero(own_B), reasons_B, plan, tops.get(number))
        table.done[ids[ended_B]] = True

    def _is_due(self, job: DecodeJob, ended_B: NDArray[np.bool_]) -> bool:
        """Whether the job is told now; a stream at its first token and then at every interval, others at ends."""
        if ended_B.any() or job.request.top_logprobs:
            return True
        return job.emit is not None and time.monotonic() - job.told_at >= self._limits.stream_interval_s

    def _tell(
        self, job: DecodeJob, places: NDArray[np.int64], reasons_B: NDArray[np.int8], plan: RowPlan, top: Top | None
    ) -> None:
        """Gives the job the new tokens of its rows: of all when it listens to them, else of those that end."""
        table, listens = self._table, job.emit is not None or job.request.top_logprobs
        places = places[~table.done[plan.ids[places]]]
        if not listens:
            places = places[reasons_B[places] != StopReason.NONE]
        ids = plan.ids[places]
        rows, tokens, logprobs, last = table.untold(ids)
        reasons = np.zeros(len(rows), np.int8)
        reasons[last] = reasons_B[places]
        step = Step(
            rows=table.answer[rows],
            tokens=tokens,
            logprobs=logprobs,
            stop_reasons=reasons,
            top_ids=None if top is None else top[0],
            top_logprobs=None if top is None else top[1],
        )
        job.told_at = time.monotonic()
        job.add(step, int((reasons != StopReason.NONE).sum()))
        if not job.unfinished:
            del self.jobs[job.number]
            job.settle(result=job.sheet)

    def _refuse_diverged(self, plan: RowPlan, logprobs_B: NDArray[np.float32]) -> None:
        """Ends the jobs whose models answer NaN; the others go on."""
        bad_B = ~np.isfinite(logprobs_B)
        if not bad_B.any():
            return
        for number in np.unique(plan.job_of_row_B[bad_B & ~self._table.done[plan.ids]]).tolist():
            job = self.jobs.pop(plan.jobs[number].number, None)
            for ids in (plan.ids[plan.job_of_row_B == number], self._racks.ids):
                self._table.done[ids[self._table.job[ids] == plan.jobs[number].number]] = True
            if job is not None:
                job.settle(error=diverged())

    def _drop(self, gone_B: NDArray[np.bool_]) -> None:
        """Takes rows out of the racks; pages of what ended are kept for a conversation's next turn."""
        self._plan = None
        if not gone_B.any():
            return
        ids = self._racks.ids
        read = self._prompt_lengths[ids] + self._table.drawn[ids] - 1
        longer = read // PAGE > self._prompt_lengths[ids] // PAGE
        for place in np.flatnonzero(gone_B & longer).tolist():
            self._remember(int(ids[place]), place)
        self._racks.drop(gone_B)
        self.forget(ids[gone_B])

    def _remember(self, row: int, place: int) -> None:
        """Caches the whole pages of a row in the racks; its last token has not been read yet."""
        page = partial(self._racks.page_of, place)
        self.cache.keep(self._starts[row].job.pages_of, self._sequence(row)[:-1], page)

    def _sequence(self, row: int) -> NDArray[np.int32]:
        return np.concatenate([self._starts[row].prompt, self._table.past(row)])

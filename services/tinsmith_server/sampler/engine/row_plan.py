"""How the rows of a batch are drawn and where they end, worked out once for every change of the batch."""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tinsmith_server.sampler.drawing.choice import RowParams, choose, likeliest
from tinsmith_server.sampler.drawing.logit_shift import LogitShift, is_penalised
from tinsmith_server.sampler.engine.job import DecodeJob
from tinsmith_server.sampler.engine.model import LlamaFamilyModel
from tinsmith_server.sampler.engine.row_table import RowTable
from tinsmith_server.sampler.request import StopReason

Top = tuple[NDArray[np.int32], NDArray[np.float32]]
"""The likeliest tokens of some rows, and their logprobs, [rows, k]."""


class RowPlan:
    """The rows `ids` of a table, in the order of a batch."""

    def __init__(
        self, jobs: Mapping[int, DecodeJob], ids: NDArray[np.int64], table: RowTable, model: LlamaFamilyModel
    ) -> None:
        """`jobs` by number, as `table.job` has it for each row."""
        numbers, job_of_row = np.unique(table.job[ids], return_inverse=True)
        self.ids, self._table, self._device = ids, table, model.device
        self.jobs = [jobs[number] for number in numbers.tolist()]
        self.job_of_row_B = job_of_row
        params = [job.request.params for job in self.jobs]
        self.adapters = model.rows_of([job.adapter for job in self.jobs], job_of_row)
        self._params = RowParams.of(params, job_of_row, model.device)
        past = [table.past(row) for row in ids.tolist()] if any(map(is_penalised, params)) else []
        self._shift = LogitShift(params, job_of_row, past, model.vocabulary, model.device)
        self._reasons_JV = np.stack([job.stops.reason_V for job in self.jobs])
        self._readers = [number for number, job in enumerate(self.jobs) if job.stops.reads_text]
        self._topped = [number for number, job in enumerate(self.jobs) if job.request.top_logprobs]

    def draw(self, logits_BV: Tensor) -> tuple[NDArray[np.int64], NDArray[np.float32], dict[int, Top]]:
        """A token and its logprob for each row; by place in `jobs`, the likeliest of its rows that are not done."""
        uniforms_B = torch.from_numpy(self._table.uniforms(self.ids)).to(self._device)
        raw_BV = None if self._shift.nothing else logits_BV
        shifted_BV = logits_BV if raw_BV is None else self._shift.applied_to(logits_BV)
        choice = choose(shifted_BV, self._params, uniforms_B, raw_BV=raw_BV)
        self._shift.count(choice.tokens)
        tops = {number: self._top(number, choice.probs_BV) for number in self._topped}
        return choice.tokens.cpu().numpy(), choice.logprobs.cpu().numpy(), tops

    def reasons(self, tokens_B: NDArray[np.int64]) -> NDArray[np.int8]:
        """Why each row ends with its token, which the table has already; NONE where it goes on, or is done already."""
        ids, table = self.ids, self._table
        reasons_B: NDArray[np.int8] = self._reasons_JV[self.job_of_row_B, tokens_B]
        for number in self._readers:
            places = np.flatnonzero((self.job_of_row_B == number) & ~table.done[ids])
            reasons_B[places] = self.jobs[number].stops.reasons(table.answer[ids[places]], tokens_B[places])
        reasons_B[(reasons_B == StopReason.NONE) & (table.drawn[ids] >= table.limit[ids])] = StopReason.LENGTH
        reasons_B[table.done[ids]] = StopReason.NONE
        return reasons_B

    def _top(self, number: int, probs_BV: Tensor) -> Top:
        places = np.flatnonzero((self.job_of_row_B == number) & ~self._table.done[self.ids])
        rows = torch.from_numpy(places).to(self._device)
        ids, logprobs = likeliest(probs_BV[rows], self.jobs[number].request.top_logprobs)
        return ids.cpu().numpy().astype(np.int32), logprobs.cpu().numpy()

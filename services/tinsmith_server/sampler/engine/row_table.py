"""The rows of an engine as columns of numbers, so that a decoding step handles all of them in a few array operations.

A row is one answer under way. It has an id, its place in every column, as long as it lives.
"""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from tinsmith_server.sampler.drawing.philox import uniforms
from tinsmith_server.sampler.engine.interruption import Interrupted

T = TypeVar("T", bound=np.generic)

_NOISE = 16
_REFILL_BELOW = 2
"""Rows with fewer numbers left are refilled along with one that has none, so that they run out together."""
_LEAST_TOKENS = 32


class RowTable:
    """Columns of all rows."""

    def __init__(self, rows: int) -> None:
        self._free = list(range(rows - 1, -1, -1))
        self.job = np.zeros(rows, np.int64)
        """Number of the job that a row belongs to."""
        self.answer = np.zeros(rows, np.int64)
        """Which of the job's answers it is."""
        self.limit = np.zeros(rows, np.int64)
        """Most tokens it may have."""
        self.drawn = np.zeros(rows, np.int64)
        """Tokens it has."""
        self.told = np.zeros(rows, np.int64)
        """Tokens that its job knows of."""
        self.done = np.zeros(rows, bool)
        self.tokens = np.zeros((rows, _LEAST_TOKENS), np.int32)
        self.logprobs = np.zeros((rows, _LEAST_TOKENS), np.float32)
        self._seed = np.zeros(rows, np.int64)
        self._member = np.zeros(rows, np.int64)
        self._noise = np.zeros((rows, _NOISE))
        self._noise_start = np.zeros(rows, np.int64)

    @property
    def free(self) -> int:
        """Rows that may still be added."""
        return len(self._free)

    def add(
        self, *, job: int, answers: NDArray[np.int64], seeds: NDArray[np.int64], members: NDArray[np.int64], limit: int
    ) -> NDArray[np.int64]:
        """New rows without tokens; their ids."""
        ids = np.array(self._free[-len(answers) :], np.int64)
        del self._free[-len(answers) :]
        self.job[ids], self.answer[ids], self.limit[ids] = job, answers, limit
        self.drawn[ids] = self.told[ids] = 0
        self.done[ids] = False
        self._seed[ids], self._member[ids] = seeds, members
        self._noise_start[ids] = -_NOISE
        self._widen(limit)
        return ids

    def interrupted(self, row: int) -> Interrupted:
        """What a row has, to be resumed in another."""
        drawn, told = int(self.drawn[row]), int(self.told[row])
        return Interrupted(tokens=self.past(row).copy(), logprobs=self.logprobs[row, :drawn].copy(), told=told)

    def resume(self, row: int, former: Interrupted) -> None:
        """Gives a new row what a former one had."""
        self.drawn[row], self.told[row] = len(former.tokens), former.told
        self.tokens[row, : len(former.tokens)] = former.tokens
        self.logprobs[row, : len(former.tokens)] = former.logprobs

    def remove(self, ids: NDArray[np.int64]) -> None:
        """Ends rows; their ids may be given out again."""
        self._free.extend(ids.tolist())

    def write(self, ids: NDArray[np.int64], tokens: NDArray[np.int64], logprobs: NDArray[np.float32]) -> None:
        """One more token of each row. Rows that are done stay as they are."""
        places = self.drawn[ids]
        self.tokens[ids, places], self.logprobs[ids, places] = tokens, logprobs
        self.drawn[ids] += ~self.done[ids]

    def past(self, row: int) -> NDArray[np.int32]:
        """Tokens of a row."""
        return self.tokens[row, : self.drawn[row]]

    def last(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """The newest token of each row."""
        return self.tokens[ids, self.drawn[ids] - 1].astype(np.int64)

    def untold(
        self, ids: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32], NDArray[np.int64]]:
        """New tokens of rows, row by row, each of which has some: their rows, themselves, their logprobs; and where
        each row's last one stands among them. They count as told."""
        drawn, told = self.drawn[ids], self.told[ids]
        columns = np.arange(int(drawn.max(initial=0)))
        new = (columns >= told[:, None]) & (columns < drawn[:, None])
        rows = np.repeat(ids, drawn - told)
        self.told[ids] = drawn
        block = slice(0, len(columns))
        return rows, self.tokens[ids, block][new], self.logprobs[ids, block][new], np.cumsum(drawn - told) - 1

    def uniforms(self, ids: NDArray[np.int64]) -> NDArray[np.float64]:
        """The uniform number of each row's next token, float64 in [0, 1)."""
        left = self._noise_start[ids] + _NOISE - self.drawn[ids]
        if (left <= 0).any():
            dry = ids[left <= _REFILL_BELOW]
            self._noise_start[dry] = self.drawn[dry] - self.drawn[dry] % 2
            self._noise[dry] = uniforms(self._seed[dry], self._member[dry], self._noise_start[dry], _NOISE)
        numbers: NDArray[np.float64] = self._noise[ids, self.drawn[ids] - self._noise_start[ids]]
        return numbers

    def _widen(self, tokens: int) -> None:
        # One more, where rows that are done but not yet removed write what nobody reads.
        if tokens >= self.tokens.shape[1]:
            width = max(tokens + 1, 2 * self.tokens.shape[1])
            self.tokens, self.logprobs = _wider(self.tokens, width), _wider(self.logprobs, width)


def _wider(column: NDArray[T], width: int) -> NDArray[T]:
    wider = np.zeros((len(column), width), column.dtype)
    wider[:, : column.shape[1]] = column
    return wider

"""Where an answer ends: stop tokens, the model's end-of-sequence token, stop strings that may span tokens.

Text is only decoded when a token could complete a stop string, which is learnt once a token and remembered.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from tinsmith_server.sampler.request import SamplingParams, StopReason

Decode = Callable[[Sequence[int]], str]
"""Text of token ids, special tokens included."""

_UNKNOWN, _NO, _MAYBE = 0, 1, 2
_WINDOW_MARGIN = 8


class StopMatcher:
    """Watches the answers of one request."""

    def __init__(self, params: SamplingParams, eos_ids: frozenset[int], vocabulary: int, decode: Decode) -> None:
        self.reason_V = np.zeros(vocabulary, np.int8)
        """What each token alone ends an answer with, NONE where it does not."""
        if not params.ignore_eos:
            self.reason_V[[token for token in eos_ids if token < vocabulary]] = StopReason.EOS
        self.reason_V[list(params.stop_token_ids)] = StopReason.STOP
        self._strings = params.stop_strings
        self._decode = decode
        self._completes_V = np.zeros(vocabulary if self._strings else 0, np.int8)
        self._answers: dict[int, list[int]] = {}
        # A token is at least one byte, save for a few without text: hence the margin.
        longest = max((len(string.encode()) for string in self._strings), default=0)
        self._window = 2 * longest + _WINDOW_MARGIN

    @property
    def reads_text(self) -> bool:
        """Whether there are stop strings; without them `reason_V` says all."""
        return bool(self._strings)

    def reasons(self, rows_B: NDArray[np.int64], tokens_B: NDArray[np.int64]) -> NDArray[np.int8]:
        """Takes one new token of each row; NONE where the answer may go on."""
        reasons_B = self.reason_V[tokens_B]
        if self._strings:
            self._remember(rows_B, tokens_B)
            for place in np.flatnonzero(self._may_complete(tokens_B)):
                if self._ends_with_stop(self._answers[int(rows_B[place])]):
                    reasons_B[place] = StopReason.STOP
        return reasons_B

    def _remember(self, rows_B: NDArray[np.int64], tokens_B: NDArray[np.int64]) -> None:
        for row, token in zip(rows_B.tolist(), tokens_B.tolist(), strict=True):
            self._answers.setdefault(row, []).append(token)

    def _may_complete(self, tokens_B: NDArray[np.int64]) -> NDArray[np.bool_]:
        known_B = self._completes_V[tokens_B]
        if not known_B.all():
            for token in np.unique(tokens_B[known_B == _UNKNOWN]).tolist():
                self._completes_V[token] = _MAYBE if self._could_complete(token) else _NO
            known_B = self._completes_V[tokens_B]
        return np.equal(known_B, _MAYBE)

    def _could_complete(self, token: int) -> bool:
        # Twice, because some tokenizers drop the space before the first word of a text.
        text = self._decode([token, token])
        return not text or "\N{REPLACEMENT CHARACTER}" in text or any(string[-1] in text for string in self._strings)

    def _ends_with_stop(self, answer: list[int]) -> bool:
        text = self._decode(answer[-self._window :])
        return any(string in text for string in self._strings)

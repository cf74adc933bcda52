"""Reading prompts: sequences of like length side by side, a bounded piece of each at a time.

Letters: P sequences, W places of a piece, H KV heads, R query heads of a KV head, T positions, D head size, L layers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tinsmith_server.sampler.engine.adapter_rows import AdapterRows
from tinsmith_server.sampler.engine.attention import LEAST_QUERIES, PAGE, add_values, attend_each, scores, whole_keys
from tinsmith_server.sampler.engine.decoder import Pass
from tinsmith_server.sampler.engine.low_rank import LowRank

if TYPE_CHECKING:
    from tinsmith_server.sampler.engine.model import LlamaFamilyModel


@dataclass(frozen=True, kw_only=True, slots=True)
class Unread:
    """A sequence to be read."""

    tokens: NDArray[np.int32]
    adapter: LowRank | None
    pages: Sequence[Tensor] = ()
    """Keys and values of its first pages, each [2, L, H, PAGE, D], where they are known; one token at least is not."""


class Prefill:
    """Sequences that are read together; holds their keys and values until somebody takes them over."""

    def __init__(self, model: "LlamaFamilyModel", sequences: Sequence[Unread], *, keep_positions: bool = False) -> None:
        """With `keep_positions` the hidden states of all places are kept, otherwise those of the last ones."""
        self._model, self._keep = model, keep_positions
        self._adapters = [sequence.adapter for sequence in sequences]
        self.lengths_P = np.array([len(sequence.tokens) for sequence in sequences])
        self._starts_P = np.array([PAGE * len(sequence.pages) for sequence in sequences])
        self._places = int((self.lengths_P - self._starts_P).max())
        self._done = 0
        # A piece may be padded at its end to the least number of queries.
        longest = whole_keys(int(self._starts_P.max()) + self._places + LEAST_QUERIES)
        self.kv = model.empty_kv(len(sequences), longest).zero_()
        """[2, L, P, H, T, D]."""
        self._tokens_PW = np.zeros((len(sequences), self._places + LEAST_QUERIES), np.int64)
        for row, sequence in enumerate(sequences):
            for number, page in enumerate(sequence.pages):
                self.kv[:, :, row, :, PAGE * number : PAGE * (number + 1)] = page
            self._tokens_PW[row, : self.lengths_P[row] - self._starts_P[row]] = sequence.tokens[self._starts_P[row] :]
        kept = self._places * len(sequences) if keep_positions else len(sequences)
        self.hidden = self.kv.new_zeros(kept, model.weights.norm.shape[0])
        """[P, d], what follows each sequence; with `keep_positions` [P * places, d]."""

    @property
    def tokens_left(self) -> int:
        """Work to do, padding included."""
        return (self._places - self._done) * len(self.lengths_P)

    def read(self, tokens: int) -> None:
        """Reads the next piece of about `tokens` tokens, padding included."""
        least = -(-LEAST_QUERIES // self._model.repeats)
        width = min(max(least, tokens // len(self.lengths_P)), self._places - self._done)
        ended_E = self._ending(width)
        self._pass(max(width, least), width, ended_E)
        self._done += width

    def logits(self, rows_N: NDArray[np.int64] | None = None) -> Tensor:
        """float32 [N, vocabulary], what follows these kept places; of all sequences when none are given."""
        rows = np.arange(len(self.hidden)) if rows_N is None else rows_N
        sequence_N = rows // self._places if self._keep else rows
        over = self._model.over(np.zeros_like(rows), self._rows_of(sequence_N))
        hidden = self.hidden.new_zeros(len(over.rotary.cos), self.hidden.shape[1])
        hidden[: len(rows)] = self.hidden[torch.from_numpy(rows).to(hidden.device)]
        return over.logits(hidden)[: len(rows)]

    def page_of(self, sequence: int, page: int) -> Tensor:
        """A whole page of a sequence, [2, L, H, PAGE, D]."""
        return self.kv[:, :, sequence, :, PAGE * page : PAGE * (page + 1)]

    def places(self, rows_N: NDArray[np.int64], positions_N: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where `keep_positions` keeps these positions of these sequences."""
        return rows_N * self._places + positions_N

    def _ending(self, width: int) -> NDArray[np.int64]:
        last_P = self.lengths_P - 1 - self._starts_P - self._done
        return np.flatnonzero((last_P >= 0) & (last_P < width))

    def _pass(self, width: int, kept: int, ended_E: NDArray[np.int64]) -> None:
        sequences = len(self.lengths_P)
        positions_PW = self._starts_P[:, None] + np.arange(self._done, self._done + width)
        over = self._model.over(positions_PW.reshape(-1), self._rows_of(np.repeat(np.arange(sequences), width)))
        tokens = np.zeros(len(over.rotary.cos), np.int64)
        tokens[: positions_PW.size] = self._tokens_PW[:, self._done : self._done + width].reshape(-1)
        piece = _Piece(positions_PW, self.kv, self._model)
        x = self._model.weights.embedding[torch.from_numpy(tokens).to(self._model.device)]
        last = len(self._model.weights.layers) - 1
        for layer in range(last + 1):
            query, key, value = over.qkv(layer, x)
            piece.store(layer, key, value)
            if layer == last and not self._keep:
                self._finish_ended(over, piece, query, x, ended_E)
                return
            x = over.finish(layer, x, piece.attend(layer, query))
        hidden = over.norm(x)[: sequences * width].view(sequences, width, -1)[:, :kept]
        self.hidden.view(sequences, self._places, -1)[:, self._done : self._done + kept] = hidden

    def _rows_of(self, sequence_N: NDArray[np.int64]) -> AdapterRows:
        """Whose adapter the rows carry; `sequence_N` is each row's sequence."""
        return self._model.rows_of(self._adapters, sequence_N)

    def _finish_ended(self, over: Pass, piece: "_Piece", query: Tensor, x: Tensor, ended_E: NDArray[np.int64]) -> None:
        """The last layer, for the last places of the sequences that end in this piece only."""
        if not len(ended_E):
            return
        device = self._model.device
        within_E = self.lengths_P[ended_E] - 1 - self._starts_P[ended_E] - self._done
        flat_E = torch.from_numpy(ended_E * piece.width + within_E).to(device)
        ended = self._model.over(self.lengths_P[ended_E] - 1, self._rows_of(ended_E))
        rest = x.new_zeros(len(ended.rotary.cos), x.shape[1])
        rest[: len(ended_E)] = x[flat_E]
        attended = query.new_zeros(len(rest), query[0].numel())
        attended[: len(ended_E)] = piece.attend_last(ended_E, self.lengths_P[ended_E], query[flat_E])
        hidden = ended.norm(ended.finish(len(over.weights.layers) - 1, rest, attended))
        self.hidden[torch.from_numpy(ended_E).to(device)] = hidden[: len(ended_E)]


class _Piece:
    """The same places of all sequences, on their way through the layers."""

    def __init__(self, positions_PW: NDArray[np.int64], kv: Tensor, model: "LlamaFamilyModel") -> None:
        self._kv, self._repeats = kv, model.repeats
        self._sequences, self.width = positions_PW.shape
        self._rows = self._sequences * self.width
        self._used = whole_keys(int(positions_PW.max()) + 1)
        self._first = int(positions_PW[0, 0]) if (positions_PW[:, 0] == positions_PW[0, 0]).all() else None
        positions = torch.from_numpy(positions_PW if self._first is None else positions_PW[:1]).to(model.device)
        self._positions_PW = positions
        beyond = torch.arange(self._used, device=model.device) > positions[:, :, None]
        mask = torch.zeros(beyond.shape, dtype=kv.dtype, device=model.device).masked_fill_(beyond, float("-inf"))
        self._mask = mask[:, None, :, None]

    def store(self, layer: int, key: Tensor, value: Tensor) -> None:
        """Keys and values [rows, H, D] into their places."""
        for half, new in enumerate((key, value)):
            new_PWHD = new[: self._rows].view(self._sequences, self.width, *new.shape[1:])
            stored_PHTD = self._kv[half, layer]
            if self._first is None:
                every = torch.arange(self._sequences, device=new.device)[:, None]
                stored_PHTD[every, :, self._positions_PW] = new_PWHD
            else:
                stored_PHTD[:, :, self._first : self._first + self.width] = new_PWHD.transpose(1, 2)

    def attend(self, layer: int, query: Tensor) -> Tensor:
        """Causal attention of all places, [rows with padding, N * D]."""
        key, value = (self._kv[half, layer, :, :, : self._used].flatten(0, 1) for half in (0, 1))
        sequences, size = self._sequences, query.shape[-1]
        heads = len(key) // sequences
        query_PHWRD = query[: self._rows].view(sequences, self.width, heads, self._repeats, size).transpose(1, 2)
        weights = scores((query_PHWRD * float(size) ** -0.5).reshape(len(key), -1, size), key)
        weights.view(sequences, heads, self.width, self._repeats, -1).add_(self._mask)
        summed = add_values(None, weights.softmax(-1), value)
        attended = query.new_zeros(len(query), query[0].numel())
        rows = attended[: self._rows].view(sequences, self.width, heads, self._repeats, size)
        rows.copy_(summed.view(sequences, heads, self.width, self._repeats, size).transpose(1, 2))
        return attended

    def attend_last(self, ended_E: NDArray[np.int64], lengths_E: NDArray[np.int64], query_END: Tensor) -> Tensor:
        """Attention of one place a sequence in the last layer, [E, N * D]."""
        used = whole_keys(int(lengths_E.max()))
        key, value = (self._kv[half, -1, :, :, :used] for half in (0, 1))
        if len(ended_E) < self._sequences:
            key, value = (half[torch.from_numpy(ended_E).to(half.device)] for half in (key, value))
        beyond = np.arange(used) >= lengths_E[:, None, None]
        mask = np.where(beyond, -np.inf, 0.0)
        return attend_each(query_END, key, value, torch.from_numpy(mask).to(key))

"""All rows that are being decoded: racks of several size classes, one pass of the model over all of them."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tinsmith_server.sampler.engine.adapter_rows import AdapterRows
from tinsmith_server.sampler.engine.attention import PAGE
from tinsmith_server.sampler.engine.model import LlamaFamilyModel
from tinsmith_server.sampler.engine.prefill import Prefill
from tinsmith_server.sampler.engine.rack import Rack, SizeClass


class Racks:
    """Rows by the ids that their owner gave them; the order of `ids` changes whenever rows come or go."""

    def __init__(self, model: LlamaFamilyModel) -> None:
        self._model = model
        self._racks: dict[SizeClass, Rack] = {}
        self._ids: dict[SizeClass, NDArray[np.int64]] = {}
        self.ids = np.zeros(0, np.int64)
        """int64 [B], in the order of a step's tokens and logits."""

    def add(
        self,
        prefill: Prefill,
        sequence_B: NDArray[np.int64],
        ids_B: NDArray[np.int64],
        size: SizeClass,
    ) -> None:
        """Takes rows over from a prefill; those of one sequence are a group. All are of `size`."""
        rack = self._racks.setdefault(size, Rack(self._model, size))
        lengths_B = prefill.lengths_P[sequence_B]
        shared_B = lengths_B // PAGE if size.shared_pages else np.zeros_like(lengths_B)
        order = []
        for shared in np.unique(shared_B).tolist():
            chosen = np.flatnonzero(shared_B == shared)
            rack.add(prefill, sequence_B[chosen], shared=shared)
            order.append(ids_B[chosen])
        self._ids[size] = np.concatenate([self._ids.get(size, ids_B[:0]), *order])
        self._recount()

    def drop(self, gone_B: NDArray[np.bool_]) -> None:
        """Forgets rows; `gone_B` is in the order of `ids`."""
        start = 0
        for size, rack in list(self._racks.items()):
            gone = gone_B[start : start + len(rack)]
            start += len(rack)
            if gone.all():
                del self._racks[size], self._ids[size]
            elif gone.any():
                self._ids[size] = self._ids[size][rack.drop(gone)]
        self._recount()

    def page_of(self, place: int, page: int) -> Tensor:
        """A whole page of the row at `place` of `ids`, [2, L, H, PAGE, D]."""
        for rack in self._racks.values():
            if place < len(rack):
                return rack.kv_of(place, page)
            place -= len(rack)
        raise IndexError(place)

    def step(self, tokens_B: NDArray[np.int64], adapters: AdapterRows) -> Tensor:
        """Reads one token of each row; float32 [B, vocabulary], what follows. `adapters` are those of the rows."""
        racks = list(self._racks.values())
        for rack in racks:
            rack.begin_step()
        over = self._model.over(np.concatenate([rack.positions_B for rack in racks]), adapters)
        padded = np.zeros(len(over.rotary.cos), np.int64)
        padded[: len(tokens_B)] = tokens_B
        x = self._model.weights.embedding[torch.from_numpy(padded).to(self._model.device)]
        for layer in range(len(self._model.weights.layers)):
            x = over.finish(layer, x, self._attend(layer, racks, *over.qkv(layer, x)))
        for rack in racks:
            rack.end_step()
        return over.logits(over.norm(x))[: len(tokens_B)]

    def _attend(self, layer: int, racks: list[Rack], query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        rows, start = len(self.ids), 0
        if len(racks) == 1 and rows == len(query):
            return racks[0].attend(layer, query, key, value)
        attended = query.new_zeros(len(query), query[0].numel())
        for rack in racks:
            part = slice(start, start + len(rack))
            attended[part] = rack.attend(layer, query[part], key[part], value[part])
            start = part.stop
        return attended

    def _recount(self) -> None:
        self.ids = np.concatenate([*self._ids.values()]) if self._ids else np.zeros(0, np.int64)

"""Batches of open datasets for callers: the cursor checked, slow reads off the event loop."""

import asyncio
from dataclasses import dataclass

from tinsmith_server.dataset.batching import RowBatch, read_batch
from tinsmith_server.dataset.opened import OpenedDataset
from tinsmith_server.dataset.spec import Batching
from tinsmith_server.serving.errors import OutOfRange

_SHORT_READ = 1024
"""Rows that are read from memory in a millisecond or two."""
_SHORT_SHUFFLE = 65_536


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchReader:
    """A dataset and how it is cut."""

    dataset: OpenedDataset
    batching: Batching

    @property
    def fingerprint(self) -> str:
        return self.dataset.cursor_fingerprint(self.batching)

    def check(self, fingerprint: str) -> None:
        """OutOfRange with reason CURSOR_MISMATCH when a cursor is of other data; an empty one fits all."""
        if fingerprint and fingerprint != self.fingerprint:
            raise OutOfRange(
                "the cursor is of another dataset or another batching; begin without one, or leave its fingerprint out",
                reason="CURSOR_MISMATCH",
                metadata={"cursor": fingerprint, "dataset": self.fingerprint},
            )

    async def read(self, index: int) -> RowBatch:
        """Batch `index`. Raises what `read_batch` raises."""
        if self._is_short():
            return read_batch(self.dataset, self.batching, index)
        return await asyncio.to_thread(read_batch, self.dataset, self.batching, index)

    def _is_short(self) -> bool:
        rows, batching = self.dataset.rows, self.batching
        is_long_shuffle = batching.shuffle_epochs and (rows.length or 0) > _SHORT_SHUFFLE
        return rows.quick and batching.batch_size <= _SHORT_READ and not is_long_shuffle

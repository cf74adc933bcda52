"""Datasets that are open, kept for the next call. Opening is done once however many calls wait for it."""

import asyncio
from collections import OrderedDict

from tinsmith_server.dataset.opened import OpenedDataset
from tinsmith_server.dataset.opening import Opener
from tinsmith_server.dataset.sources.arithmetic import BLOCK
from tinsmith_server.dataset.spec import DatasetSpec, FilesSource

_Key = tuple[DatasetSpec, int, tuple[object, ...]]


class OpenDatasets:
    """The latest datasets by what they are."""

    def __init__(self, opener: Opener, *, most: int, most_bytes: int) -> None:
        self._opener = opener
        self._most = most
        self._most_bytes = most_bytes
        self._opening: OrderedDict[_Key, asyncio.Task[OpenedDataset]] = OrderedDict()

    async def get(self, wanted: DatasetSpec, *, batch_size: int = BLOCK) -> OpenedDataset:
        """The open dataset of a spec, opened anew when one of its files has changed. Raises what `Opener.open` does."""
        cut = batch_size if self._opener.is_cut_by_batch(wanted) else BLOCK
        stamp = await asyncio.to_thread(self._opener.stamp, wanted) if _has_files(wanted) else ()
        key = (wanted, cut, stamp)
        if key not in self._opening:
            self._opening[key] = asyncio.create_task(asyncio.to_thread(self._opener.open, wanted, batch_size=cut))
        self._opening.move_to_end(key)
        task = self._opening[key]
        try:
            # A caller that goes away must not take the others' dataset with it.
            opened = await asyncio.shield(task)
        except BaseException:
            if task.done():
                self._opening.pop(key, None)
            raise
        self._shrink()
        return opened

    def _shrink(self) -> None:
        """Forgets the datasets used longest ago, never the latest."""
        while len(self._opening) > 1 and (len(self._opening) > self._most or self._bytes() > self._most_bytes):
            self._opening.popitem(last=False)

    def _bytes(self) -> int:
        done = [task for task in self._opening.values() if task.done() and not task.cancelled()]
        return sum(task.result().size_bytes for task in done if task.exception() is None)


def _has_files(wanted: DatasetSpec) -> bool:
    nested = (other for operation in wanted.operations for other in getattr(operation, "datasets", ()))
    return isinstance(wanted.source, FilesSource) or any(map(_has_files, nested))

"""Wakes those who watch a run when this process has added to it."""

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager


class Changes:
    """Who watches which run."""

    def __init__(self) -> None:
        self._watchers: defaultdict[str, set[asyncio.Event]] = defaultdict(set)

    @contextmanager
    def of(self, run_id: str) -> Iterator[asyncio.Event]:
        """An event that is set at each change of the run. Clear it before reading the run, so that none is missed."""
        event = asyncio.Event()
        self._watchers[run_id].add(event)
        try:
            yield event
        finally:
            self._watchers[run_id].discard(event)
            if not self._watchers[run_id]:
                del self._watchers[run_id]

    def tell(self, run_id: str) -> None:
        """The run has changed."""
        for event in self._watchers.get(run_id, ()):
            event.set()

"""Credit of a stream: how many more batches its reader takes."""

import asyncio


class Credit:
    """Filled by one task, used by another."""

    def __init__(self, batches: int) -> None:
        self._batches = batches
        self._failure: Exception | None = None
        self._is_closed = False
        self._changed = asyncio.Event()

    def grant(self, batches: int) -> None:
        self._batches += batches
        self._changed.set()

    def close(self, failure: Exception | None = None) -> None:
        """No more will come: the reader has closed its side, or did what it must not."""
        self._failure = failure
        self._is_closed = True
        self._changed.set()

    async def use(self) -> bool:
        """Waits for credit for one batch and uses it; False when there is none and no more will come. Raises the
        failure at once when there was one."""
        while self._failure is None and not self._batches and not self._is_closed:
            self._changed.clear()
            await self._changed.wait()
        if self._failure is not None:
            raise self._failure
        if not self._batches:
            return False
        self._batches -= 1
        return True

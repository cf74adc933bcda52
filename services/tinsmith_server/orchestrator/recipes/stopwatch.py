"""How long the parts of a step take."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """Collects `time/<span>` in seconds, and `time/total` since it was made."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._spans: dict[str, float] = {}

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """Adds the time inside to the span."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._spans[name] = self._spans.get(name, 0.0) + time.perf_counter() - began

    def metrics(self) -> dict[str, float]:
        """The spans and the total until now."""
        spans = {f"time/{name}": seconds for name, seconds in self._spans.items()}
        return spans | {"time/total": time.perf_counter() - self._began}

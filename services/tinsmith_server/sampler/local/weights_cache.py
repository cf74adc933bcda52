"""Adapted weights in memory: the least recently used leave when there are too many bytes.

A request that is being decoded keeps its weights alive by holding them; leaving the cache only means that nobody else
finds them.
"""

from collections import OrderedDict

from tinsmith_server.sampler.local.causal import AdaptedWeights


class WeightsCache:
    """Weights by version. Used on the event loop only."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._entries: OrderedDict[str, AdaptedWeights] = OrderedDict()

    @property
    def held_bytes(self) -> int:
        """Memory of all entries."""
        return sum(weights.extra_bytes for weights in self._entries.values())

    def get(self, version: str) -> AdaptedWeights | None:
        """The weights, which become the most recently used."""
        if version in self._entries:
            self._entries.move_to_end(version)
        return self._entries.get(version)

    def put(self, version: str, weights: AdaptedWeights) -> None:
        """Keeps the weights; the newest stays even when it alone is over the limit."""
        self._entries[version] = weights
        while len(self._entries) > 1 and self.held_bytes > self._limit_bytes:
            self._entries.popitem(last=False)

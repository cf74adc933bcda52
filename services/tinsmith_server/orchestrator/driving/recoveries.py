"""How often a run may go back to a checkpoint without getting further."""


class Recoveries:
    """Counts recoveries in a row that brought no new step."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._count = 0
        self._furthest = -1

    def allow(self, step: int) -> bool:
        """Whether to go on after a failure of a run that has done `step` steps."""
        if step > self._furthest:
            self._furthest, self._count = step, 0
        self._count += 1
        return self._count <= self._limit

    @property
    def pause_s(self) -> float:
        """How long to wait before the next attempt: longer each time."""
        return float(min(0.1 * 2 ** (self._count - 1), 5.0))

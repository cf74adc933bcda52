"""Tic-tac-toe by the book, and how TextArena reads a move: what the tests hold the room's games against."""

import re
from dataclasses import dataclass, field

LINES = [{0, 1, 2}, {3, 4, 5}, {6, 7, 8}, {0, 3, 6}, {1, 4, 7}, {2, 5, 8}, {0, 4, 8}, {2, 4, 6}]


@dataclass
class Rules:
    """A game between seats 0 and 1; seat 0 begins. One illegal move is forgiven, a second in a row loses."""

    taken: tuple[set[int], set[int]] = field(default_factory=lambda: (set(), set()))
    seat: int = 0
    warned: bool = False
    rewards: list[float] | None = None

    def free(self) -> list[int]:
        return sorted(set(range(9)) - self.taken[0] - self.taken[1])

    def play(self, text: str, *, bare_is_move: bool) -> bool:
        """The seat to move says something; whether that was legal."""
        cell = self._cell(text, bare_is_move=bare_is_move)
        if cell not in self.free():
            if self.warned:
                self.rewards = [1.0, 1.0]
                self.rewards[self.seat] = -1.0
            self.warned = True
            return False
        own = self.taken[self.seat]
        own.add(cell)
        if any(line <= own for line in LINES):
            self.rewards = [-1.0, -1.0]
            self.rewards[self.seat] = 1.0
        elif not self.free():
            self.rewards = [0.0, 0.0]
        else:
            self.seat = 1 - self.seat
        self.warned = False
        return True

    @staticmethod
    def _cell(text: str, *, bare_is_move: bool) -> int | None:
        if bare_is_move and not set(text) & {"[", "]"}:
            text = f"[{text}]"
        found = re.search(r"\[\s*([0-9]+)\s*\]", text)
        digits = found[1].lstrip("0") if found else None
        return None if digits is None or len(digits) > 1 else int(digits or "0")

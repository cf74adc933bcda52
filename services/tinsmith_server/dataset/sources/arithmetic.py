"""Additions without end: "What is x + y?" with x and y drawn from 0 to max_operand.

Batch i is what numpy.random.RandomState(i) draws, x and y of one problem after the other, so every batch can be made
alone, by any process. So is tinker-cookbook's arithmetic, which seed 0 of the split "train" equals; other seeds and the
split "test" draw from generators of their own.
"""

from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinsmith_server.dataset.columns import Column
from tinsmith_server.dataset.rows import Indices, Row

FEW_SHOT = [{"role": "user", "content": "What is 4 + 5?"}, {"role": "assistant", "content": "9"}]
BLOCK = 100
"""Problems that one generator draws where rows are not asked for in batches: the cookbook's batch size."""

_COLUMNS = (
    Column(name="id", type="string"),
    Column(name="messages", type="list<struct<role: string, content: string>>"),
    Column(name="answer", type="string"),
    Column(name="metadata", type="struct<x: int64, y: int64>"),
)


class ArithmeticRows:
    """Row r is problem r % block of batch r // block."""

    length = None
    quick = True
    size_bytes = 0
    names = tuple(column.name for column in _COLUMNS)

    def __init__(self, *, split: str, seed: int, max_operand: int, few_shot: bool, block: int = BLOCK) -> None:
        self._split = split
        self._seed = seed
        self._max_operand = max_operand
        self._few_shot = FEW_SHOT if few_shot else []
        self._block = block

    def in_blocks(self, block: int) -> "ArithmeticRows":
        """The same stream of problems cut into batches of another size."""
        return ArithmeticRows(
            split=self._split,
            seed=self._seed,
            max_operand=self._max_operand,
            few_shot=bool(self._few_shot),
            block=block,
        )

    def columns(self) -> tuple[Column, ...]:
        return _COLUMNS

    def read(self, indices: Indices) -> list[Row]:
        batches = indices // self._block
        drawn = {batch: self._operands(batch) for batch in np.unique(batches).tolist()}
        places = (indices % self._block).tolist()
        return [self._row(batch, *drawn[batch][place]) for batch, place in zip(batches.tolist(), places, strict=True)]

    def _operands(self, batch: int) -> list[list[int]]:
        """x and y of each problem of a batch."""
        generator = np.random.RandomState(self._generator_seed(batch))
        drawn: NDArray[Any] = generator.randint(0, self._max_operand + 1, size=(self._block, 2))
        return [[*pair, place] for place, pair in enumerate(drawn.tolist())]

    def _generator_seed(self, batch: int) -> int:
        if self._split == "train" and self._seed == 0 and batch < 1 << 32:
            return batch
        digest = sha256(f"{self._split}/{self._seed}/{batch}".encode()).digest()
        return int.from_bytes(digest[:4], "little")

    def _row(self, batch: int, x: int, y: int, place: int) -> Row:
        return {
            "id": f"{self._split}-{self._seed}-{batch}-{place}",
            "messages": [*self._few_shot, {"role": "user", "content": f"What is {x} + {y}?"}],
            "answer": str(x + y),
            "metadata": {"x": x, "y": y},
        }

"""A dataset that is open: its rows, its shape, its fingerprints, the order of its epochs."""

from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from hashlib import sha256

from tinsmith_server.dataset.columns import Column
from tinsmith_server.dataset.operations import permutation
from tinsmith_server.dataset.plain import canonical_json
from tinsmith_server.dataset.rows import Indices, Rows, RowShape, each_chunk
from tinsmith_server.dataset.spec import Batching

_KEPT_ORDERS = 2


class OpenedDataset:
    """What a DatasetSpec became."""

    def __init__(
        self,
        *,
        rows: Rows,
        shape: RowShape,
        raw: Rows,
        source: Rows,
        identity: Sequence[object],
        operations: Sequence[object],
        skipped: int,
    ) -> None:
        """`raw` are the rows before they got a canonical shape, `source` those before any operation; `identity` and
        `operations` are JSON values that say where rows come from and what was done to them."""
        self.rows = rows
        self.shape = shape
        self.skipped = skipped
        self._raw = raw
        self._source = source
        self._identity = identity
        self._operations = operations
        self._length = rows.length
        self._orders: dict[int, Indices] = {}

    @property
    def size_bytes(self) -> int:
        return self.rows.size_bytes

    def raw_columns(self) -> tuple[Column, ...]:
        """The columns before a canonical shape was given."""
        return self._raw.columns()

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of the source's rows and the operations, in hexadecimal: equal on every host. Reads every row of the
        source; of sources without an end the name and options stand for the rows."""
        digest = sha256()
        if self._source.length is None:
            digest.update(canonical_json(self._identity))
        else:
            for chunk in each_chunk(self._source, self._source.length):
                for row in chunk:
                    digest.update(canonical_json(row) + b"\n")
        digest.update(canonical_json(self._operations))
        return digest.hexdigest()

    def cursor_fingerprint(self, batching: Batching) -> str:
        """sha256 of what names the data (source, sizes of files, operations, number of rows) and of the batching: what
        a cursor is checked against, without reading the rows."""
        return sha256(self._name + canonical_json(asdict(batching))).hexdigest()

    @cached_property
    def _name(self) -> bytes:
        return sha256(canonical_json([self._identity, self._operations, self._length])).digest()

    def epoch_order(self, seed: int, length: int) -> Indices:
        """The order of shuffle(seed), int64 [length]; the latest are kept."""
        order = self._orders.get(seed)
        if order is None:
            order = permutation(seed, length)
            while len(self._orders) >= _KEPT_ORDERS:
                self._orders.pop(next(iter(self._orders)), None)
            self._orders[seed] = order
        return order

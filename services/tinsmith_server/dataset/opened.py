"""A dataset that is open: its rows, its shape, its fingerprints, the order of its epochs."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from hashlib import sha256

from tinsmith_server.dataset.columns import Column
from tinsmith_server.dataset.operations import permutation
from tinsmith_server.dataset.plain import canonical_json
from tinsmith_server.dataset.rows import Indices, Rows, RowShape, each_chunk
from tinsmith_server.dataset.spec import Batching

_KEPT_ORDERS = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """An operation that was done."""

    operation: object
    """A JSON value that says which."""
    others: tuple["OpenedDataset", ...] = ()
    """The datasets that took part."""


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
        steps: Sequence[Step],
        skipped: int,
    ) -> None:
        """`raw` are the rows before they got a canonical shape, `source` those before any operation; `identity` is
        JSON values that say where rows come from, `steps` what was done to them."""
        self.rows = rows
        self.shape = shape
        self.skipped = skipped
        self._raw = raw
        self._source = source
        self._identity = identity
        self._steps = steps
        # As they are now: a stream learns its length when it is read, and names must not depend on that.
        self._length = rows.length
        self._source_length = source.length
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
        if self._source_length is None:
            digest.update(canonical_json(self._identity))
        else:
            for chunk in each_chunk(self._source, self._source_length):
                for row in chunk:
                    digest.update(canonical_json(row) + b"\n")
        digest.update(canonical_json(self._done([[o.fingerprint for o in step.others] for step in self._steps])))
        return digest.hexdigest()

    def cursor_fingerprint(self, batching: Batching) -> str:
        """sha256 of what names the data (source, sizes of files, operations, number of rows) and of the batching: what
        a cursor is checked against, without reading the rows."""
        return sha256(canonical_json([self._name, asdict(batching)])).hexdigest()

    @cached_property
    def _name(self) -> str:
        done = self._done([[other._name for other in step.others] for step in self._steps])
        return sha256(canonical_json([self._identity, done, self._length])).hexdigest()

    def _done(self, others: Sequence[Sequence[str]]) -> list[object]:
        """The steps as JSON values, with what names the datasets that took part in each."""
        return [[step.operation, *names] for step, names in zip(self._steps, others, strict=True)]

    def epoch_order(self, seed: int, length: int) -> Indices:
        """The order of shuffle(seed), int64 [length]; the latest are kept."""
        order = self._orders.get(seed)
        if order is None:
            order = permutation(seed, length)
            # A new dict, not a changed one: other threads may be reading.
            self._orders = {**dict([*self._orders.items()][1 - _KEPT_ORDERS :]), seed: order}
        return order

"""Tables: Parquet and Arrow files, which are mapped into memory, and CSV."""

from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.ipc
import pyarrow.parquet

from tinsmith_server.dataset.columns import Column
from tinsmith_server.dataset.plain import plain
from tinsmith_server.dataset.rows import Indices, Row
from tinsmith_server.dataset.sources.bad_rows import BadRows, bad_row
from tinsmith_server.dataset.sources.locations import LocatedFile

_MOST_BYTES_INLINE = 1 << 20


class TableRows:
    """The rows of an Arrow table."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table
        self.names: tuple[str, ...] = tuple(table.column_names)
        self.length: int = table.num_rows
        self.size_bytes: int = table.nbytes
        self.quick = self.size_bytes <= _MOST_BYTES_INLINE

    def columns(self) -> tuple[Column, ...]:
        return tuple(Column(name=field.name, type=str(field.type)) for field in self._table.schema)

    def read(self, indices: Indices) -> list[Row]:
        return [plain(row) for row in self._table.take(pa.array(indices)).to_pylist()]


def read_parquet(file: LocatedFile) -> TableRows:
    """A Parquet file. InvalidArgument with reason BAD_ROW when it is damaged."""
    return _table(file, lambda: pyarrow.parquet.read_table(file.path, memory_map=True))


def read_arrow(file: LocatedFile) -> TableRows:
    """An Arrow IPC file or stream. InvalidArgument with reason BAD_ROW when it is damaged."""

    def read() -> pa.Table:
        source = pa.memory_map(str(file.path))
        try:
            return pyarrow.ipc.open_file(source).read_all()
        except pa.ArrowInvalid:  # `datasets` writes the stream form, which has no footer
            source.seek(0)
            return pyarrow.ipc.open_stream(source).read_all()

    return _table(file, read)


def read_csv(text: bytes, file: LocatedFile, bad_rows: BadRows) -> TableRows:
    """A CSV file in UTF-8 with a header; types are inferred. InvalidArgument, BAD_ROW as `bad_rows` has it."""
    wrong: list[tuple[int, str]] = []

    def judge(row: Any) -> str:
        wrong.append((row.number, f"has {row.actual_columns} columns, the header {row.expected_columns}"))
        return "skip" if bad_rows.skip else "error"

    def read() -> pa.Table:
        return pyarrow.csv.read_csv(
            pa.BufferReader(text),
            # Rows are numbered only when one thread reads them.
            read_options=pyarrow.csv.ReadOptions(use_threads=False),
            parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True, invalid_row_handler=judge),
            convert_options=pyarrow.csv.ConvertOptions(strings_can_be_null=False),
        )

    if not text.strip():
        return TableRows(pa.table({}))
    try:
        table = read()
    except pa.ArrowInvalid as error:
        line, problem = wrong[0] if wrong else (0, str(error).splitlines()[0])
        raise bad_row(file.name, line, problem) from error
    bad_rows.skipped += len(wrong)
    return TableRows(table)


def _table(file: LocatedFile, read: Any) -> TableRows:
    try:
        return TableRows(read())
    except (pa.ArrowException, OSError) as error:
        problem = str(error).replace(str(file.path), file.name).splitlines()[0]
        raise bad_row(file.name, 0, f"can't be read as its format: {problem}") from error

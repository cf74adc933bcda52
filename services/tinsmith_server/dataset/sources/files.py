"""Files as rows: where they lie, what format they have, how they are unpacked."""

import gzip
import io
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa

from tinsmith_server.dataset.rows import ConcatenatedRows, ListRows, Rows
from tinsmith_server.dataset.sources.bad_rows import BadRows, bad_row
from tinsmith_server.dataset.sources.jsonl import read_lines
from tinsmith_server.dataset.sources.locations import LocatedFile, locate
from tinsmith_server.dataset.sources.tables import read_arrow, read_csv, read_parquet
from tinsmith_server.dataset.spec import FileFormat, FilesSource
from tinsmith_server.serving.errors import InvalidArgument, ResourceExhausted

_BY_SUFFIX = {
    ".jsonl": FileFormat.JSONL,
    ".ndjson": FileFormat.JSONL,
    ".csv": FileFormat.CSV,
    ".parquet": FileFormat.PARQUET,
    ".arrow": FileFormat.ARROW,
}
_PACKED = (".gz", ".zst")
_PIECE = 1 << 20


def locate_all(source: FilesSource, root: Path) -> list[LocatedFile]:
    """The files of a source. Raises what `locate` raises."""
    return [locate(uri, root) for uri in source.uris]


def open_files(source: FilesSource, files: Sequence[LocatedFile], *, max_bytes: int) -> tuple[Rows, int]:
    """The rows of files, one file after the other, and how many rows were left out. Blocks.

    InvalidArgument BAD_ROW or UNKNOWN_FORMAT; ResourceExhausted FILE_TOO_LARGE for text beyond `max_bytes`.
    """
    bad_rows = BadRows(skip=source.skip_bad_rows)
    parts = [_open(file, _format(file, source.format), bad_rows, max_bytes) for file in files]
    if len(parts) == 1:
        return parts[0], bad_rows.skipped
    joined = ConcatenatedRows(parts, [part.length or 0 for part in parts])
    joined.columns()  # raises where types clash
    return joined, bad_rows.skipped


def _format(file: LocatedFile, wanted: FileFormat) -> FileFormat:
    if wanted is not FileFormat.BY_NAME:
        return wanted
    name = Path(file.name)
    suffix = Path(name.stem).suffix if name.suffix in _PACKED else name.suffix
    if suffix not in _BY_SUFFIX:
        raise InvalidArgument(
            f"{file.name}: the name does not tell the format; end it in {', '.join(_BY_SUFFIX)} or set format",
            reason="UNKNOWN_FORMAT",
            metadata={"file": file.name},
        )
    return _BY_SUFFIX[suffix]


def _open(file: LocatedFile, form: FileFormat, bad_rows: BadRows, max_bytes: int) -> Rows:
    match form:
        case FileFormat.PARQUET:
            return read_parquet(file)
        case FileFormat.ARROW:
            return read_arrow(file)
        case FileFormat.CSV:
            return read_csv(_text(file, max_bytes), file, bad_rows)
        case _:
            text = _text(file, max_bytes)
            return ListRows(list(read_lines(text, file.name, bad_rows)), size_bytes=4 * len(text))


def _text(file: LocatedFile, max_bytes: int) -> bytes:
    """The file's bytes, unpacked."""
    pieces = io.BytesIO()
    try:
        with _unpacked(file) as stream:
            while piece := stream.read(_PIECE):
                pieces.write(piece)
                if pieces.tell() > max_bytes:
                    raise ResourceExhausted(
                        f"{file.name} holds more than {max_bytes} bytes of text; split it, make it Parquet, or raise "
                        "max_file_bytes of the dataset process",
                        reason="FILE_TOO_LARGE",
                        metadata={"file": file.name, "limit": str(max_bytes)},
                    )
    except (OSError, EOFError, zlib.error, pa.ArrowException) as error:
        problem = str(error).replace(str(file.path), file.name)
        raise bad_row(file.name, 0, f"can't be unpacked: {problem}") from error
    return pieces.getvalue()


def _unpacked(file: LocatedFile) -> "BinaryIO | gzip.GzipFile | pa.NativeFile":
    match Path(file.name).suffix:
        case ".gz":
            return gzip.open(file.path, "rb")
        case ".zst":
            return pa.CompressedInputStream(pa.OSFile(str(file.path)), "zstd")
        case _:
            return file.path.open("rb")

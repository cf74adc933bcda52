"""Files: formats, packing, rows that can't be read, places that may not be read."""

import asyncio
import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet
import pytest

from tests.dataset.conftest import read_all
from tests.support import serving
from tinsmith import TinsmithError
from tinsmith.aio import Suite
from tinsmith.dataset.v1 import (
    BadRowPolicy,
    DatasetSpec,
    DescribeDatasetRequest,
    FileFormat,
    FilesSource,
    Operation,
    Shuffle,
)
from tinsmith_server.dataset import ROOM

ROWS = [{"i": 1, "text": "ä"}, {"i": 2, "text": "b\nc"}]
SKIP = BadRowPolicy.BAD_ROW_POLICY_SKIP


def files(*uris: str, operations: tuple[Operation, ...] = (), **options: Any) -> DatasetSpec:
    return DatasetSpec(files=FilesSource(uris=uris, **options), operations=operations)


def jsonl(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def pack_zst(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize(("suffix", "pack"), [("", bytes), (".gz", gzip.compress), (".zst", pack_zst)])
async def test_text_may_be_packed(suite: Suite, data_root: Path, suffix: str, pack: Callable[[bytes], bytes]) -> None:
    """B-02."""
    (data_root / f"rows.jsonl{suffix}").write_bytes(pack(jsonl(ROWS)))
    (data_root / f"rows.csv{suffix}").write_bytes(pack(b'i,text\n1,\xc3\xa4\n2,"b\nc"\n'))
    assert await read_all(suite, files(f"rows.jsonl{suffix}")) == ROWS
    assert await read_all(suite, files(f"rows.csv{suffix}")) == ROWS


async def test_tables_read_as_datasets_writes_them(suite: Suite, data_root: Path) -> None:
    """D-06."""
    hub = datasets.Dataset.from_list(ROWS)
    hub.to_parquet(str(data_root / "rows.parquet"))
    hub.save_to_disk(str(data_root / "saved"))
    with pa.OSFile(str(data_root / "rows.arrow"), "wb") as sink, pa.ipc.new_file(sink, hub.data.schema) as writer:
        writer.write_table(hub.data.table)
    stream = next((data_root / "saved").glob("*.arrow")).relative_to(data_root).as_posix()
    for uri in ("rows.parquet", "rows.arrow", stream):
        assert await read_all(suite, files(uri)) == ROWS
        described = await suite.datasets.DescribeDataset(DescribeDatasetRequest(dataset=files(uri)))
        assert [(column.name, column.type) for column in described.columns] == [("i", "int64"), ("text", "string")]


async def test_a_hundred_thousand_rows(suite: Suite, data_root: Path) -> None:
    """D-06."""
    table = pa.table({"i": range(100_000)})
    pyarrow.parquet.write_table(table, data_root / "many.parquet")
    spec = files("many.parquet", operations=(Operation(shuffle=Shuffle(seed=1)),))
    got = await read_all(suite, spec)
    assert [row["i"] for row in got] == datasets.Dataset(table).shuffle(seed=1)["i"][:65536]


async def test_files_follow_each_other_with_the_union_of_columns(suite: Suite, data_root: Path) -> None:
    (data_root / "a.jsonl").write_bytes(jsonl([{"i": 1}]))
    (data_root / "b.csv").write_text("i,j\n2,x\n")
    assert await read_all(suite, files("a.jsonl", "b.csv")) == [{"i": 1, "j": None}, {"i": 2, "j": "x"}]


@pytest.mark.parametrize(
    ("content", "rows", "skipped"),
    [
        pytest.param(b"\xef\xbb\xbf" + jsonl(ROWS), ROWS, 0, id="byte order mark"),
        pytest.param(jsonl(ROWS).replace(b"\n", b"\r\n"), ROWS, 0, id="carriage returns"),
        pytest.param(jsonl(ROWS).removesuffix(b"\n"), ROWS, 0, id="no final line end"),
        pytest.param(jsonl(ROWS[:1]) + b"\n  \n" + jsonl(ROWS[1:]), ROWS, 2, id="blank lines"),
        pytest.param(b"", [], 0, id="empty file"),
        pytest.param(b'{"i": 1}\n{"j": 2}\n', [{"i": 1, "j": None}, {"i": None, "j": 2}], 0, id="missing column"),
    ],
)
async def test_odd_files_are_read(
    suite: Suite, data_root: Path, content: bytes, rows: list[dict[str, Any]], skipped: int
) -> None:
    """B-02."""
    (data_root / "odd.jsonl").write_bytes(content)
    described = await suite.datasets.DescribeDataset(DescribeDatasetRequest(dataset=files("odd.jsonl"), examples=9))
    assert [json.loads(row.json) for row in described.examples] == rows
    assert (described.rows, described.skipped_rows) == (len(rows), skipped)


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        (b'{"i": 1', "not JSON"),
        (b"[1]", "a list, not a JSON object"),
        (b'"text"', "text, not a JSON object"),
        (b'{"i": NaN}', "NaN"),
        (b'{"i": "\xff"}', "not UTF-8"),
        (b'{"i": "\\ud800"}', "not UTF-8"),
        (b'{"i": ' + b"[" * 100_000, "nested too deep"),
        (b'{"i": ' + b"[" * 500 + b"]" * 500 + b"}", "nested more than 100 deep"),
        (b'{"i": ' + b"9" * 5000 + b"}", "integer"),
    ],
)
async def test_bad_rows_are_named_or_left_out(suite: Suite, data_root: Path, bad: bytes, problem: str) -> None:
    """B-02."""
    (data_root / "sub").mkdir()
    (data_root / "sub" / "bad.jsonl").write_bytes(b'{"i": 1}\n\n' + bad + b'\n{"i": 2}\n')
    with pytest.raises(TinsmithError) as error:
        await read_all(suite, files("sub/bad.jsonl"))
    assert (error.value.code.name, error.value.reason) == ("INVALID_ARGUMENT", "BAD_ROW")
    assert (error.value.metadata["file"], error.value.metadata["line"]) == ("sub/bad.jsonl", "3")
    assert problem in str(error.value)
    assert str(data_root) not in str(error.value)
    spec = files("sub/bad.jsonl", bad_rows=SKIP)
    assert await read_all(suite, spec) == [{"i": 1}, {"i": 2}]
    described = await suite.datasets.DescribeDataset(DescribeDatasetRequest(dataset=spec))
    assert described.skipped_rows == 2


async def test_bad_rows_of_csv_are_named_or_left_out(suite: Suite, data_root: Path) -> None:
    """B-02."""
    (data_root / "bad.csv").write_text("i,j\n1,2\n3\n4,5\n")
    with pytest.raises(TinsmithError) as error:
        await read_all(suite, files("bad.csv"))
    assert (error.value.reason, error.value.metadata["line"]) == ("BAD_ROW", "3")
    spec = files("bad.csv", bad_rows=SKIP)
    assert await read_all(suite, spec) == [{"i": 1, "j": 2}, {"i": 4, "j": 5}]
    assert (await suite.datasets.DescribeDataset(DescribeDatasetRequest(dataset=spec))).skipped_rows == 1


@pytest.mark.parametrize("name", ["bad.parquet", "bad.arrow", "bad.jsonl.gz", "bad.jsonl.zst"])
async def test_damaged_files_are_named(suite: Suite, data_root: Path, name: str) -> None:
    (data_root / name).write_bytes(b"PAR1 this is none of these")
    with pytest.raises(TinsmithError) as error:
        await read_all(suite, files(name))
    assert (error.value.reason, error.value.metadata["file"]) == ("BAD_ROW", name)
    assert str(data_root) not in str(error.value)


async def test_truncated_packing_is_named(suite: Suite, data_root: Path) -> None:
    (data_root / "cut.jsonl.gz").write_bytes(gzip.compress(jsonl(ROWS * 100))[:-20])
    with pytest.raises(TinsmithError) as error:
        await read_all(suite, files("cut.jsonl.gz"))
    assert error.value.reason == "BAD_ROW"


async def test_a_file_that_unpacks_without_end_is_refused(
    tmp_path: Path, data_root: Path, base_models: tuple[str, ...]
) -> None:
    (data_root / "bomb.jsonl.gz").write_bytes(gzip.compress(b" " * 50_000_000))
    settings = {"base_models": base_models, "data_root": str(data_root), "max_file_bytes": 1_000_000}
    async with serving(ROOM, tmp_path / "home", **settings) as address, Suite.connect(dataset=address) as suite:
        with pytest.raises(TinsmithError) as error:
            await read_all(suite, files("bomb.jsonl.gz"))
    assert (error.value.code.name, error.value.reason) == ("RESOURCE_EXHAUSTED", "FILE_TOO_LARGE")


@pytest.mark.parametrize(
    "uri",
    [
        "../secret.jsonl",
        "a/../../secret.jsonl",
        "{outside}",
        "file://{outside}",
        "link.jsonl",
        "folder/secret.jsonl",
        "file:///etc/passwd",
        "file://host/x",
        "loop.jsonl",
        "a\0b",
        "ftp://host/x",
        "file://%2e%2e/secret.jsonl",
    ],
)
async def test_nothing_outside_of_the_data_root_is_read(suite: Suite, data_root: Path, uri: str) -> None:
    """B-01: traversal, links, other places; and no word on whether there is a file."""
    outside = data_root.parent / "secret.jsonl"
    outside.write_bytes(jsonl(ROWS))
    (data_root / "link.jsonl").symlink_to(outside)
    (data_root / "folder").symlink_to(data_root.parent)
    (data_root / "loop.jsonl").symlink_to("loop.jsonl")
    with pytest.raises(TinsmithError) as error:
        await read_all(suite, files(uri.format(outside=outside), format=FileFormat.FILE_FORMAT_JSONL))
    assert (error.value.code.name, error.value.reason) == ("PERMISSION_DENIED", "LOCATION_NOT_ALLOWED")


async def test_places_inside_of_the_data_root_are_read(suite: Suite, data_root: Path) -> None:
    """B-01."""
    (data_root / "a b.jsonl").write_bytes(jsonl(ROWS))
    (data_root / "link.jsonl").symlink_to("a b.jsonl")
    for uri in (
        "a b.jsonl",
        "./x/../a b.jsonl",
        str(data_root / "a b.jsonl"),
        f"file://{data_root}/a%20b.jsonl",
        "link.jsonl",
    ):
        assert await read_all(suite, files(uri)) == ROWS


@pytest.mark.parametrize("uri", ["s3://bucket/a.jsonl", "gs://b/a", "az://c/a", "https://host/a", "hf://datasets/a"])
async def test_blob_stores_are_not_there_yet(suite: Suite, uri: str) -> None:
    with pytest.raises(TinsmithError) as error:
        await read_all(suite, files(uri))
    assert (error.value.code.name, error.value.reason) == ("UNIMPLEMENTED", "SCHEME_NOT_SUPPORTED")


async def test_what_is_no_file_is_not_found(suite: Suite, data_root: Path) -> None:
    (data_root / "folder.jsonl").mkdir()
    os.mkfifo(data_root / "pipe.jsonl")
    for uri in ("none.jsonl", "folder.jsonl", "pipe.jsonl", "x" * 5000):
        with pytest.raises(TinsmithError) as error:
            await asyncio.wait_for(read_all(suite, files(uri)), 10)
        assert (error.value.code.name, error.value.reason) == ("NOT_FOUND", "DATASET_NOT_FOUND")


async def test_a_name_without_format_is_refused(suite: Suite, data_root: Path) -> None:
    (data_root / "rows.txt").write_bytes(jsonl(ROWS))
    with pytest.raises(TinsmithError) as error:
        await read_all(suite, files("rows.txt"))
    assert error.value.reason == "UNKNOWN_FORMAT"
    assert await read_all(suite, files("rows.txt", format=FileFormat.FILE_FORMAT_JSONL)) == ROWS


async def test_a_changed_file_is_read_anew(suite: Suite, data_root: Path) -> None:
    for rows in (ROWS, ROWS[:1], ROWS[1:]):
        (data_root / "rows.jsonl").write_bytes(jsonl(rows))
        assert await read_all(suite, files("rows.jsonl")) == rows


async def test_many_callers_open_a_file_once(suite: Suite, data_root: Path) -> None:
    (data_root / "rows.jsonl").write_bytes(jsonl(ROWS * 1000))
    got = await asyncio.gather(*(read_all(suite, files("rows.jsonl")) for _ in range(20)))
    assert all(rows == ROWS * 1000 for rows in got)

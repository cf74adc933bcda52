"""Hub datasets from a mirror: a local folder of the same shape."""

import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from tests.dataset.conftest import read_all
from tinsmith import TinsmithError
from tinsmith.aio import Suite
from tinsmith.dataset.v1 import (
    Batching,
    CatalogueSource,
    Cursor,
    DatasetSpec,
    DescribeDatasetRequest,
    Filter,
    GetBatchRequest,
    HubSource,
    MapFields,
    Operation,
    Shuffle,
    Skip,
    Slice,
    Take,
)

TWO_CONFIGS = """---
configs:
- config_name: main
  data_files:
  - {split: train, path: main/train.jsonl}
  - {split: test, path: main/test.jsonl}
- config_name: socratic
  data_files:
  - {split: train, path: main/test.jsonl}
---
"""
SOLUTIONS = ["Two and two.\n#### 4", "Dollars.\n#### $18.00", "#### 1,234", "#### : 6 b", "no answer", "#### 1\n#### 2"]
ANSWERS = ["4", "$18.00", "1234", "6 b", "2"]


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def gsm8k(mirror: Path) -> Path:
    """openai/gsm8k in small, with two configurations."""
    folder = mirror / "openai" / "gsm8k"
    rows = [{"question": f"Question {number}?", "answer": text} for number, text in enumerate(SOLUTIONS)]
    write_jsonl(folder / "main" / "train.jsonl", rows)
    write_jsonl(folder / "main" / "test.jsonl", rows[:1])
    (folder / "README.md").write_text(TWO_CONFIGS)
    return folder


@pytest.fixture
def numbers(mirror: Path) -> Path:
    """lab/numbers: ten rows, one split."""
    folder = mirror / "lab" / "numbers"
    write_jsonl(folder / "train.jsonl", [{"i": number} for number in range(10)])
    return folder


def hub(*operations: Operation, id: str = "lab/numbers", **options: Any) -> DatasetSpec:
    return DatasetSpec(hub=HubSource(id=id, **options), operations=operations)


async def stream(suite: Suite, *operations: Operation, batch: int = 3) -> list[int]:
    """The numbers of a streaming dataset, batch by batch."""
    found: list[int] = []
    cursor = Cursor()
    dataset = hub(*operations, split="train", streaming=True)
    while True:
        request = GetBatchRequest(dataset=dataset, batching=Batching(batch_size=batch, epochs=1), cursor=cursor)
        try:
            answer = (await suite.datasets.GetBatch(request)).batch
        except TinsmithError as error:
            if error.reason != "END_OF_DATA":
                raise
            return found
        found += [json.loads(row.json)["i"] for row in answer.rows]
        cursor = answer.next


@pytest.mark.parametrize("split", ["", "train", "train[:20%]", "train[5:]", "train[-3:]"])
async def test_a_mirror_reads_as_datasets_does(suite: Suite, numbers: Path, split: str) -> None:
    """D-15, D-16."""
    oracle = datasets.load_dataset(str(numbers), split=split or "train")
    assert await read_all(suite, hub(split=split)) == oracle.to_list()


async def test_a_configuration_must_be_named(suite: Suite, gsm8k: Path) -> None:
    """D-08."""
    for config in ("", "nope"):
        with pytest.raises(TinsmithError) as error:
            await read_all(suite, hub(id="openai/gsm8k", split="train", config=config))
        assert (error.value.code.name, error.value.reason) == ("INVALID_ARGUMENT", "CONFIG_REQUIRED")
        assert error.value.metadata["configs"] == "main,socratic"
        assert str(gsm8k) not in str(error.value)
    assert len(await read_all(suite, hub(id="openai/gsm8k", config="socratic"))) == 1


async def test_unknown_splits_are_not_found(suite: Suite, numbers: Path) -> None:
    with pytest.raises(TinsmithError) as error:
        await read_all(suite, hub(split="nope"))
    assert (error.value.code.name, error.value.reason) == ("NOT_FOUND", "DATASET_NOT_FOUND")
    assert str(numbers) not in str(error.value)


async def test_offline_without_mirror_says_what_to_do(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    """D-16."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(TinsmithError, match="mirror_root") as error:
        await read_all(suite, hub(id="nobody/nothing", split="train"))
    assert (error.value.code.name, error.value.reason) == ("FAILED_PRECONDITION", "HUB_OFFLINE")


@pytest.mark.parametrize("id", ["../numbers", "lab/../lab/numbers", "/etc", "lab/numbers/train", "a b", "lab/.."])
async def test_an_id_is_no_path(suite: Suite, numbers: Path, id: str) -> None:
    with pytest.raises(TinsmithError) as error:
        await read_all(suite, hub(id=id, split="train"))
    assert error.value.reason == "DATASET_NOT_FOUND"


async def test_gsm8k_is_a_set_of_problems(suite: Suite, gsm8k: Path) -> None:
    """H-01: with and without an answer behind the last mark."""
    dataset = DatasetSpec(catalogue=CatalogueSource(name="gsm8k"))
    answer = await suite.datasets.GetBatch(GetBatchRequest(dataset=dataset, batching=Batching(batch_size=9, epochs=1)))
    problems = [row.problem for row in answer.batch.rows]
    assert [problem.answer for problem in problems] == ANSWERS
    assert problems[-1].id == "train-5"
    assert problems[0].messages[-1].content == "Question 0? Write your answer in \\boxed{} format."
    assert json.loads(problems[0].metadata_json) == {"solution": SOLUTIONS[0]}


@pytest.mark.parametrize(
    ("buffer", "order"), [(4, [2, 0, 5, 4, 1, 7, 3, 8, 9, 6]), (11, [4, 6, 2, 7, 3, 5, 9, 0, 8, 1])]
)
async def test_streams_shuffle_through_a_buffer(suite: Suite, numbers: Path, buffer: int, order: list[int]) -> None:
    """D-09."""
    shuffle = Operation(shuffle=Shuffle(seed=0, buffer_size=buffer))
    assert await stream(suite, shuffle) == order
    oracle = datasets.load_dataset(str(numbers), split="train", streaming=True).shuffle(seed=0, buffer_size=buffer)
    assert order == [row["i"] for row in oracle]


async def test_streams_take_skip_filter_and_map(suite: Suite, numbers: Path) -> None:
    """D-09."""
    got = await stream(
        suite,
        Operation(skip=Skip(count=2)),
        Operation(filter=Filter(expression="row.i % 2 == 1")),
        Operation(map_fields=MapFields(fields={"j": "i"})),
        Operation(map_fields=MapFields(fields={"i": "j"})),
        Operation(take=Take(count=3)),
    )
    assert got == [3, 5, 7]


async def test_streams_go_back(suite: Suite, numbers: Path) -> None:
    """D-11: a reader may ask for a batch again; `datasets` alone can't go back."""
    dataset = hub(split="train", streaming=True)
    for index in (2, 0, 1, 1, 3):
        request = GetBatchRequest(dataset=dataset, batching=Batching(batch_size=3), cursor=Cursor(batch=index))
        rows = (await suite.datasets.GetBatch(request)).batch.rows
        assert [json.loads(row.json)["i"] for row in rows] == list(range(10))[3 * index : 3 * index + 3]


async def test_streams_refuse_what_needs_their_length(suite: Suite, numbers: Path) -> None:
    with pytest.raises(TinsmithError) as error:
        await stream(suite, Operation(slice=Slice(start=1, stop=2)))
    assert (error.value.code.name, error.value.reason) == ("FAILED_PRECONDITION", "STREAMING_UNSUPPORTED")
    described = await suite.datasets.DescribeDataset(
        DescribeDatasetRequest(dataset=hub(split="train", streaming=True), examples=2)
    )
    assert described.rows == -1
    assert [json.loads(row.json) for row in described.examples] == [{"i": 0}, {"i": 1}]


async def test_a_fingerprint_of_a_stream_does_not_depend_on_who_has_read_it(suite: Suite, numbers: Path) -> None:
    """D-17."""
    request = DescribeDatasetRequest(dataset=hub(split="train", streaming=True))
    before = (await suite.datasets.DescribeDataset(request)).fingerprint
    assert len(await stream(suite)) == 10
    assert (await suite.datasets.DescribeDataset(request)).fingerprint == before
    first = GetBatchRequest(dataset=request.dataset, batching=Batching(batch_size=10))
    cursor = (await suite.datasets.GetBatch(first)).batch.next
    first.cursor.CopyFrom(cursor)  # of the next epoch, in which the length is known
    assert (await suite.datasets.GetBatch(first)).batch.next.fingerprint == cursor.fingerprint

"""Canonical shapes, fingerprints, and what the process does not load."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.dataset.conftest import inline
from tinsmith import TinsmithError
from tinsmith.aio import Suite
from tinsmith.dataset.v1 import (
    Batching,
    Canonicalize,
    Concat,
    DatasetSpec,
    DescribeDatasetRequest,
    DescribeDatasetResponse,
    FilesSource,
    Filter,
    GetBatchRequest,
    Operation,
    RowShape,
    Shuffle,
    Take,
    UploadSource,
)
from tinsmith.types.v1 import Message, Preference, Row
from tinsmith_server.dataset import spec
from tinsmith_server.dataset.opening import Opener
from tinsmith_server.dataset.settings import DatasetSettings


def shaped(shape: str, rows: list[dict[str, Any]], *operations: Operation, **options: Any) -> DatasetSpec:
    canonical = Canonicalize(shape=RowShape.Value(f"ROW_SHAPE_{shape}"), **options)
    return inline(rows, Operation(canonicalize=canonical), *operations)


async def read(suite: Suite, dataset: DatasetSpec) -> list[Row]:
    request = GetBatchRequest(dataset=dataset, batching=Batching(batch_size=100, epochs=1))
    return list((await suite.datasets.GetBatch(request)).batch.rows)


async def describe(suite: Suite, dataset: DatasetSpec) -> DescribeDatasetResponse:
    return await suite.datasets.DescribeDataset(DescribeDatasetRequest(dataset=dataset))


async def test_problems(suite: Suite) -> None:
    dataset = shaped(
        "PROBLEM",
        [{"problem": "1 + 1?", "solution": {"final": 2}, "uid": 7}],
        columns={"question": "problem", "answer": "solution.final", "id": "uid"},
        few_shot=[Message(role="user", content="q"), Message(role="assistant", content="a")],
        question_suffix=" Box it.",
    )
    [row] = await read(suite, dataset)
    assert [(m.role, m.content) for m in row.problem.messages] == [
        ("user", "q"),
        ("assistant", "a"),
        ("user", "1 + 1? Box it."),
    ]
    assert (row.problem.id, row.problem.answer, row.problem.metadata_json) == ("7", "2", "")
    described = await describe(suite, dataset)
    assert described.shape == RowShape.ROW_SHAPE_PROBLEM
    assert [column.name for column in described.columns] == ["problem", "solution", "uid"]


async def test_conversations_of_both_spellings(suite: Suite) -> None:
    """H-09."""
    call = {"id": "c", "type": "function", "function": {"name": "add", "arguments": {"x": 1}}}
    rows: list[dict[str, Any]] = [
        {"messages": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "ho"}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "h"}, {"type": "text", "text": "i"}]}]},
        {"messages": [{"role": "assistant", "content": None, "tool_calls": [call], "reasoning_content": "hm"}]},
    ]
    got = [row.conversation.messages for row in await read(suite, shaped("CONVERSATION", rows))]
    assert [(m.role, m.content) for m in got[0]] == [("user", "hi"), ("assistant", "ho")]
    assert got[1][0].content == "hi"
    assert (got[2][0].tool_calls[0].name, json.loads(got[2][0].tool_calls[0].arguments_json)) == ("add", {"x": 1})
    assert got[2][0].parts[0].thinking == "hm"


async def test_pairs_and_prompts(suite: Suite) -> None:
    pair = {"prompt": "q", "chosen": "a", "rejected": [{"role": "assistant", "content": "b"}], "winner": "second"}
    columns = {"first": "chosen", "second": "rejected", "label": "winner"}
    [row] = await read(suite, shaped("PREFERENCE", [pair], columns=columns))
    assert row.preference.label == Preference.PREFERENCE_SECOND
    assert [
        m.content for c in (row.preference.prompt, row.preference.first, row.preference.second) for m in c.messages
    ] == ["q", "a", "b"]
    [row] = await read(suite, shaped("PROMPT", [{"text": "hello"}], columns={"question": "text"}))
    assert [(m.role, m.content) for m in row.prompt.messages] == [("user", "hello")]


async def test_operations_go_on_behind_a_shape(suite: Suite) -> None:
    rows = [{"question": str(number), "answer": str(number)} for number in range(10)]
    operations = [Operation(shuffle=Shuffle(seed=0)), Operation(filter=Filter(expression="row.answer != '4'"))]
    dataset = shaped("PROBLEM", rows, *operations, Operation(concat=Concat(datasets=[shaped("PROBLEM", rows[:1])])))
    got = [row.problem.answer for row in await read(suite, dataset)]
    assert got == ["6", "2", "7", "3", "5", "9", "0", "8", "1", "0"]
    mixed = shaped("PROBLEM", rows, Operation(concat=Concat(datasets=[inline([{"other": 1}])])))
    assert all(row.WhichOneof("row") == "json" for row in await read(suite, mixed))


@pytest.mark.parametrize(
    ("shape", "row", "columns", "reason"),
    [
        ("PROBLEM", {"question": "q", "answer": None}, {}, "BAD_ROW"),
        ("PROBLEM", {"question": "q"}, {}, "COLUMN_NOT_FOUND"),
        ("PROBLEM", {"question": "q", "answer": "a"}, {"anwser": "a"}, "BAD_SHAPE"),
        ("CONVERSATION", {"messages": []}, {}, "BAD_ROW"),
        ("CONVERSATION", {"messages": "text"}, {}, "BAD_ROW"),
        ("CONVERSATION", {"messages": [{"content": "x"}]}, {}, "BAD_ROW"),
        ("PREFERENCE", {"prompt": "p", "first": "a", "second": "b", "label": "best"}, {}, "BAD_ROW"),
    ],
)
async def test_rows_that_do_not_fit_are_refused(
    suite: Suite, shape: str, row: dict[str, Any], columns: dict[str, str], reason: str
) -> None:
    with pytest.raises(TinsmithError) as error:
        await read(suite, shaped(shape, [row], columns=columns))
    assert error.value.reason == reason


async def test_few_shot_turns_are_text(suite: Suite) -> None:
    turn = Message(role="user")
    turn.parts.add(text="q")
    with pytest.raises(TinsmithError) as error:
        await read(suite, shaped("PROBLEM", [{"question": "q", "answer": "a"}], few_shot=[turn]))
    assert error.value.reason == "INVALID_REQUEST"


async def test_uploads_say_that_they_are_not_there_yet(suite: Suite) -> None:
    with pytest.raises(TinsmithError) as error:
        await read(suite, DatasetSpec(upload=UploadSource(upload_id="x")))
    assert (error.value.code.name, error.value.reason) == ("UNIMPLEMENTED", "NOT_IMPLEMENTED")


async def test_a_fingerprint_tells_data_apart(suite: Suite, data_root: Path) -> None:
    """D-17."""
    rows = [{"i": 1, "j": 2}, {"i": 3, "j": 4}]
    (data_root / "a.jsonl").write_text('{"j": 2, "i": 1}\n\n{"i":3,"j":4}')
    taken = Operation(take=Take(count=1))
    same = [inline(rows), DatasetSpec(files=FilesSource(uris=["a.jsonl"]))]
    assert len({(await describe(suite, dataset)).fingerprint for dataset in same}) == 1
    different = [inline(rows), inline(rows, taken), inline(rows[:1]), inline(rows[::-1]), inline(rows, taken, taken)]
    joined = [inline(rows, Operation(concat=Concat(datasets=[inline(other)]))) for other in (rows, rows[:1])]
    assert len({(await describe(suite, dataset)).fingerprint for dataset in (*different, *joined)}) == 7


def test_a_fingerprint_is_equal_on_every_host(tmp_path: Path) -> None:
    """D-17: another process, another data root, the same fingerprint."""
    wanted = spec.DatasetSpec(
        source=spec.FilesSource(uris=("rows.jsonl",), format=spec.FileFormat.BY_NAME, skip_bad_rows=False),
        operations=(spec.Shuffle(seed=3, buffer_size=0),),
    )
    found = []
    for root in (tmp_path / "a", tmp_path / "b"):
        root.mkdir()
        (root / "rows.jsonl").write_text('{"i": 1}\n{"i": 2}\n')
        opened = Opener(DatasetSettings(home=tmp_path, data_root=str(root))).open(wanted, batch_size=1)
        found.append((opened.fingerprint, opened.cursor_fingerprint(spec.Batching(batch_size=1))))
    script = f"""
from pathlib import Path
from tinsmith_server.dataset import spec
from tinsmith_server.dataset.opening import Opener
from tinsmith_server.dataset.settings import DatasetSettings
wanted = spec.DatasetSpec(
    source=spec.FilesSource(uris=("rows.jsonl",), format=spec.FileFormat.BY_NAME, skip_bad_rows=False),
    operations=(spec.Shuffle(seed=3, buffer_size=0),),
)
print(Opener(DatasetSettings(home=Path("."), data_root={str(tmp_path / "a")!r})).open(wanted, batch_size=1).fingerprint)
"""
    assert found[0] == found[1]
    assert run(script) == found[0][0]


def test_the_process_does_without_torch() -> None:
    """Rows and formats need none of its memory and start time."""
    script = """
import sys
from transformers import PreTrainedTokenizerFast
import tinsmith_server.dataset
from tinsmith_server.dataset.renderers.renderer import RENDERERS
print(sorted({"torch", "tensorflow", "jax"} & set(sys.modules)))
"""
    assert run(script) == "[]"


def run(script: str) -> str:
    """What a script prints in a process of its own."""
    path = [str(folder) for folder in map(Path, sys.path) if folder.name in ("services", "python")]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {path!r}\n{script}"],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return done.stdout.strip()

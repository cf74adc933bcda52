"""Operations against `datasets`, which has them first."""

from typing import Any

import datasets
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.dataset.conftest import inline, read_all
from tinsmith import TinsmithError
from tinsmith.aio import Suite
from tinsmith.dataset.v1 import (
    Canonicalize,
    Concat,
    Dedupe,
    DescribeDatasetRequest,
    Filter,
    Interleave,
    MapFields,
    Operation,
    RowShape,
    SampleRows,
    SelectColumns,
    Shuffle,
    Skip,
    Slice,
    Split,
    Take,
)
from tinsmith_server.dataset.operations import permutation

TEN = [{"i": number} for number in range(10)]


def hub(rows: list[dict[str, Any]] = TEN) -> datasets.Dataset:
    return datasets.Dataset.from_list(rows)


async def numbers(suite: Suite, *operations: Operation) -> list[int]:
    return [row["i"] for row in await read_all(suite, inline(TEN, *operations))]


@pytest.mark.parametrize(("seed", "order"), [(0, [4, 6, 2, 7, 3, 5, 9, 0, 8, 1]), (42, [5, 6, 0, 7, 3, 2, 4, 9, 1, 8])])
async def test_shuffle_is_that_of_datasets(suite: Suite, seed: int, order: list[int]) -> None:
    """D-01."""
    assert await numbers(suite, Operation(shuffle=Shuffle(seed=seed))) == order
    assert hub().shuffle(seed=seed)["i"] == order


@given(seed=st.integers(0, 2**63 - 1), length=st.integers(0, 40))
def test_permutation_is_that_of_datasets(seed: int, length: int) -> None:
    """D-01."""
    shuffled = datasets.Dataset.from_dict({"i": list(range(length))}).shuffle(seed=seed)
    assert permutation(seed, length).tolist() == list(shuffled["i"])


async def test_negative_seed_is_refused(suite: Suite) -> None:
    with pytest.raises(TinsmithError) as error:
        await numbers(suite, Operation(shuffle=Shuffle(seed=-1)))
    assert error.value.reason == "BAD_SEED"


async def test_take_and_skip_beyond_the_end(suite: Suite) -> None:
    """D-02."""
    assert await numbers(suite, Operation(take=Take(count=99))) == list(range(10))
    assert await numbers(suite, Operation(take=Take(count=3))) == hub().take(3)["i"]
    assert await numbers(suite, Operation(skip=Skip(count=7))) == hub().skip(7)["i"]
    described = await suite.datasets.DescribeDataset(
        DescribeDatasetRequest(dataset=inline(TEN, Operation(skip=Skip(count=99))))
    )
    assert described.rows == 0


async def test_negative_counts_are_refused(suite: Suite) -> None:
    """D-02."""
    for operation in (Operation(take=Take(count=-1)), Operation(skip=Skip(count=-1))):
        with pytest.raises(TinsmithError) as error:
            await numbers(suite, operation)
        assert error.value.reason == "INVALID_REQUEST"


@pytest.mark.parametrize(("start", "stop", "step"), [(2, 9, 3), (0, 0, 1), (5, 0, 0), (9, 3, 1), (20, 30, 2)])
async def test_slice_is_a_range(suite: Suite, start: int, stop: int, step: int) -> None:
    """D-02."""
    wanted = list(range(10))[start : stop or None : step or 1]
    operation = Operation(slice=Slice(start=start, stop=stop, step=step))
    if wanted:
        assert await numbers(suite, operation) == hub().select(range(10))[start : stop or None : step or 1]["i"]
    described = await suite.datasets.DescribeDataset(DescribeDatasetRequest(dataset=inline(TEN, operation)))
    assert described.rows == len(wanted)


async def test_operations_apply_in_order(suite: Suite) -> None:
    got = await numbers(
        suite, Operation(shuffle=Shuffle(seed=0)), Operation(skip=Skip(count=2)), Operation(take=Take(count=3))
    )
    assert got == hub().shuffle(seed=0).skip(2).take(3)["i"]


async def test_filter_keeps_order(suite: Suite) -> None:
    """D-03."""
    got = await numbers(
        suite, Operation(shuffle=Shuffle(seed=0)), Operation(filter=Filter(expression="row.i % 2 == 0"))
    )
    assert got == hub().shuffle(seed=0).filter(lambda row: row["i"] % 2 == 0)["i"]


async def test_filter_leaves_out_what_is_held_out(suite: Suite) -> None:
    """D-03: MATH train minus MATH-500, in small."""
    rows = [{"problem": text} for text in ("a", "b", "c")]
    kept = await read_all(suite, inline(rows, Operation(filter=Filter(expression="!(row.problem in ['b', 'z'])"))))
    assert kept == [{"problem": "a"}, {"problem": "c"}]


async def test_concat_has_the_union_of_columns(suite: Suite) -> None:
    """D-04."""
    other = inline([{"j": 1}])
    got = await read_all(suite, inline([{"i": 0}], Operation(concat=Concat(datasets=[other]))))
    assert got == [{"i": 0, "j": None}, {"i": None, "j": 1}]
    assert got == datasets.concatenate_datasets([hub([{"i": 0}]), hub([{"j": 1}])]).to_list()


async def test_concat_refuses_a_column_of_two_kinds(suite: Suite) -> None:
    """D-04."""
    with pytest.raises(TinsmithError) as error:
        await read_all(suite, inline([{"i": 0}], Operation(concat=Concat(datasets=[inline([{"i": "zero"}])]))))
    assert (error.value.reason, error.value.metadata["column"]) == ("TYPE_CLASH", "i")


async def test_inline_rows_have_the_union_of_keys(suite: Suite) -> None:
    """D-05: `datasets` takes the columns of the first row alone."""
    rows = [{"a": 1}, {"b": 2, "a": "x"}]
    assert await read_all(suite, inline(rows)) == [{"a": 1, "b": None}, {"a": "x", "b": 2}]
    described = await suite.datasets.DescribeDataset(DescribeDatasetRequest(dataset=inline(rows)))
    assert [(column.name, column.type) for column in described.columns] == [("a", "mixed"), ("b", "int64")]


@pytest.mark.parametrize("test_side", [True, False])
async def test_split_by_rows_is_that_of_datasets(suite: Suite, test_side: bool) -> None:
    """D-07."""
    got = await numbers(suite, Operation(split=Split(test_size=3, seed=0, test_side=test_side)))
    oracle = hub().train_test_split(test_size=3, seed=0)["test" if test_side else "train"]["i"]
    assert got == oracle
    assert not test_side or got == [4, 6, 2]


@pytest.mark.parametrize("fraction", [0.25, 0.1, 0.61])
async def test_split_by_share_is_that_of_datasets(suite: Suite, fraction: float) -> None:
    """D-07."""
    got = await numbers(suite, Operation(split=Split(test_fraction=fraction, seed=3, test_side=True)))
    assert got == hub().train_test_split(test_size=fraction, seed=3)["test"]["i"]


async def test_split_needs_rows_on_both_sides(suite: Suite) -> None:
    for size in (0, 10, 11):
        with pytest.raises(TinsmithError) as error:
            await numbers(suite, Operation(split=Split(test_size=size)))
        assert error.value.reason == "BAD_SPLIT"


async def test_sample_draws_without_replacement(suite: Suite) -> None:
    got = await numbers(suite, Operation(sample=SampleRows(count=4, seed=7)))
    assert got == hub().shuffle(seed=7).take(4)["i"]


async def test_dedupe_keeps_the_first(suite: Suite) -> None:
    rows = [{"a": 1, "b": 1}, {"a": 1, "b": 2}, {"a": 1, "b": 1}]
    assert await read_all(suite, inline(rows, Operation(dedupe=Dedupe(columns=["a"])))) == rows[:1]
    assert await read_all(suite, inline(rows, Operation(dedupe=Dedupe()))) == rows[:2]


async def test_select_columns_keeps_their_order(suite: Suite) -> None:
    """D-14."""
    rows = [{"a": 1, "b": 2, "c": 3}]
    got = await read_all(suite, inline(rows, Operation(select_columns=SelectColumns(columns=["c", "a"]))))
    assert [list(row) for row in got] == [["c", "a"]]
    assert got == hub(rows).select_columns(["c", "a"]).to_list()


async def test_map_fields_follows_paths(suite: Suite) -> None:
    """D-14."""
    rows = [{"problem": "p", "meta": {"level": 3}, "turns": [{"text": "t"}, {"text": "u"}]}, {"problem": "q"}]
    fields = {"question": "problem", "level": "meta.level", "last": "turns[-1].text", "far": "turns[9].text"}
    got = await read_all(suite, inline(rows, Operation(map_fields=MapFields(fields=fields))))
    assert got == [
        {"question": "p", "level": 3, "last": "u", "far": None},
        {"question": "q", "level": None, "last": None, "far": None},
    ]
    kept = await read_all(
        suite, inline(rows[1:], Operation(map_fields=MapFields(fields={"x": "problem"}, keep_others=True)))
    )
    assert kept == [{"problem": "q", "x": "q"}]


@pytest.mark.parametrize("path", ["", ".", "a..b", "[0]", "a[x]", "a[", "a]"])
async def test_unreadable_paths_are_refused(suite: Suite, path: str) -> None:
    with pytest.raises(TinsmithError) as error:
        await read_all(suite, inline([{"a": 1}], Operation(map_fields=MapFields(fields={"x": path}))))
    assert error.value.reason == "BAD_PATH"


@pytest.mark.parametrize(
    "operation",
    [
        Operation(select_columns=SelectColumns(columns=["nope"])),
        Operation(map_fields=MapFields(fields={"x": "nope.deep"})),
        Operation(dedupe=Dedupe(columns=["nope"])),
        Operation(canonicalize=Canonicalize(shape=RowShape.ROW_SHAPE_PROBLEM, columns={"question": "nope"})),
    ],
)
async def test_a_missing_column_names_those_that_are_there(suite: Suite, operation: Operation) -> None:
    with pytest.raises(TinsmithError) as error:
        await read_all(suite, inline([{"a": 1, "answer": "x"}], operation))
    assert (error.value.reason, error.value.metadata["column"]) == ("COLUMN_NOT_FOUND", "nope")
    assert "a, answer" in str(error.value)


async def test_interleave_says_that_it_is_not_there_yet(suite: Suite) -> None:
    with pytest.raises(TinsmithError) as error:
        await read_all(suite, inline(TEN, Operation(interleave=Interleave(datasets=[inline(TEN)]))))
    assert (error.value.code.name, error.value.reason) == ("UNIMPLEMENTED", "NOT_IMPLEMENTED")


async def test_deep_nesting_is_refused(suite: Suite) -> None:
    nested = inline(TEN)
    for _ in range(12):
        nested = inline(TEN, Operation(concat=Concat(datasets=[nested])))
    with pytest.raises(TinsmithError) as error:
        await read_all(suite, nested)
    assert error.value.reason == "TOO_DEEP"

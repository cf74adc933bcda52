"""The problem set `arithmetic`, against numpy's own generator and the figures of tinker-cookbook."""

import numpy as np
import pytest

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
    ListDatasetsRequest,
    Operation,
    RowShape,
    Shuffle,
    Take,
)
from tinsmith.types.v1 import Problem


def arithmetic(*operations: Operation, split: str = "", **options: str) -> DatasetSpec:
    source = CatalogueSource(name="arithmetic", split=split, options=options)
    return DatasetSpec(catalogue=source, operations=operations)


async def batch(suite: Suite, dataset: DatasetSpec, index: int, size: int = 50) -> list[Problem]:
    request = GetBatchRequest(dataset=dataset, batching=Batching(batch_size=size), cursor=Cursor(batch=index))
    return [row.problem for row in (await suite.datasets.GetBatch(request)).batch.rows]


@pytest.mark.parametrize(("index", "question"), [(0, "44 + 47"), (1, "37 + 12"), (2, "40 + 15")])
async def test_first_problems_are_those_of_the_cookbook(suite: Suite, index: int, question: str) -> None:
    """N-07, N-08."""
    first = (await batch(suite, arithmetic(), index))[0]
    assert [(message.role, message.content) for message in first.messages] == [
        ("user", "What is 4 + 5?"),
        ("assistant", "9"),
        ("user", f"What is {question}?"),
    ]
    assert first.answer == str(sum(map(int, question.split(" + "))))


async def test_batch_draws_one_operand_after_the_other(suite: Suite) -> None:
    """N-08: as randint called twice a problem."""
    generator = np.random.RandomState(7)
    drawn = [(generator.randint(0, 10), generator.randint(0, 10)) for _ in range(50)]
    problems = await batch(suite, arithmetic(max_operand="9", few_shot="false"), 7)
    assert [problem.messages[0].content for problem in problems] == [f"What is {x} + {y}?" for x, y in drawn]


async def test_ids_are_unique(suite: Suite) -> None:
    problems = [problem for index in range(3) for problem in await batch(suite, arithmetic(), index)]
    assert len({problem.id for problem in problems}) == 150


async def test_splits_and_seeds_draw_apart(suite: Suite) -> None:
    variants = [arithmetic(), arithmetic(split="test"), arithmetic(seed="1"), arithmetic(split="test", seed="1")]
    drawn = {tuple(problem.answer for problem in await batch(suite, variant, 0)) for variant in variants}
    assert len(drawn) == len(variants)


async def test_it_has_no_end_unless_some_are_taken(suite: Suite) -> None:
    assert len(await batch(suite, arithmetic(), 10**6)) == 50
    described = await suite.datasets.DescribeDataset(DescribeDatasetRequest(dataset=arithmetic(), examples=2))
    assert (described.rows, described.shape) == (-1, RowShape.ROW_SHAPE_PROBLEM)
    assert [row.problem for row in described.examples] == await batch(suite, arithmetic(), 0, 2)
    with pytest.raises(TinsmithError) as error:
        await batch(suite, arithmetic(), 2**62)
    assert error.value.reason == "END_OF_DATA"


async def test_taking_some_keeps_the_batches(suite: Suite) -> None:
    taken = arithmetic(Operation(take=Take(count=70)))
    assert await batch(suite, taken, 0) == await batch(suite, arithmetic(), 0)
    assert await batch(suite, taken, 1) == (await batch(suite, arithmetic(), 1))[:20]
    request = GetBatchRequest(dataset=taken, batching=Batching(batch_size=50, epochs=1), cursor=Cursor(batch=2))
    with pytest.raises(TinsmithError) as error:
        await suite.datasets.GetBatch(request)
    assert error.value.reason == "END_OF_DATA"


async def test_other_operations_work_on_batches_of_a_hundred(suite: Suite) -> None:
    first = [*await batch(suite, arithmetic(), 0, 100), *await batch(suite, arithmetic(), 1, 100)]
    operations = [Operation(take=Take(count=200)), Operation(filter=Filter(expression="row.metadata.x > 90"))]
    kept = await batch(suite, arithmetic(*operations), 0, 200)
    assert kept == [problem for problem in first if int(problem.messages[-1].content.split()[2]) > 90]


async def test_a_shuffle_of_no_end_is_refused(suite: Suite) -> None:
    with pytest.raises(TinsmithError) as error:
        await batch(suite, arithmetic(Operation(shuffle=Shuffle(seed=0))), 0)
    assert (error.value.code.name, error.value.reason) == ("FAILED_PRECONDITION", "ENDLESS_DATASET")
    assert "take" in str(error.value)


async def test_unknown_options_and_values_are_refused(suite: Suite) -> None:
    for options, reason in (
        ({"max_operands": "9"}, "UNKNOWN_OPTION"),
        ({"max_operand": "-1"}, "BAD_OPTION"),
        ({"max_operand": "ten"}, "BAD_OPTION"),
        ({"few_shot": "yes"}, "BAD_OPTION"),
        ({"seed": "1e9"}, "BAD_OPTION"),
    ):
        with pytest.raises(TinsmithError) as error:
            await batch(suite, arithmetic(**options), 0)
        assert (error.value.code.name, error.value.reason) == ("INVALID_ARGUMENT", reason)
    with pytest.raises(TinsmithError, match="did you mean 'max_operand'"):
        await batch(suite, arithmetic(max_operands="9"), 0)


async def test_unknown_names_and_splits_list_those_there_are(suite: Suite) -> None:
    with pytest.raises(TinsmithError, match="did you mean 'arithmetic'") as error:
        await batch(suite, DatasetSpec(catalogue=CatalogueSource(name="aritmetic")), 0)
    assert (error.value.code.name, error.value.reason) == ("NOT_FOUND", "DATASET_NOT_FOUND")
    with pytest.raises(TinsmithError, match="train, test") as error:
        await batch(suite, arithmetic(split="validation"), 0)
    assert error.value.reason == "DATASET_NOT_FOUND"


async def test_an_error_stays_readable_whatever_the_caller_sent(suite: Suite) -> None:
    """A status travels in trailers of a few kB."""
    for name in ("x" * 50_000, "ä🙂" * 10_000):
        with pytest.raises(TinsmithError) as error:
            await batch(suite, DatasetSpec(catalogue=CatalogueSource(name=name)), 0)
        assert (error.value.code.name, error.value.reason) == ("NOT_FOUND", "DATASET_NOT_FOUND")


async def test_the_catalogue_is_paged(suite: Suite) -> None:
    first = await suite.datasets.ListDatasets(ListDatasetsRequest(page_size=1))
    rest = await suite.datasets.ListDatasets(ListDatasetsRequest(page_token=first.next_page_token))
    assert [entry.name for entry in (*first.datasets, *rest.datasets)] == ["arithmetic", "gsm8k"]
    assert not rest.next_page_token
    assert dict(first.datasets[0].options) == {"max_operand": "100", "few_shot": "true", "seed": "0"}
    assert "overlap" in first.datasets[0].description
    with pytest.raises(TinsmithError) as error:
        await suite.datasets.ListDatasets(ListDatasetsRequest(page_token="?"))
    assert error.value.reason == "BAD_PAGE_TOKEN"

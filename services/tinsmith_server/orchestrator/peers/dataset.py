"""The dataset service: problems in batches."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from tinsmith.aio import Suite
from tinsmith.dataset.v1 import (
    Batching,
    Cursor,
    DatasetSpec,
    DescribeDatasetRequest,
    GetBatchRequest,
    ListDatasetsRequest,
)
from tinsmith.types.v1 import Problem
from tinsmith_server.orchestrator.peers.caller import Caller
from tinsmith_server.orchestrator.peers.failures import CallFailed


@dataclass(frozen=True, kw_only=True, slots=True)
class ProblemSource:
    """Problems and how they are cut into batches."""

    dataset: DatasetSpec
    batching: Batching


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetFacts:
    """What is known of a dataset without reading it through."""

    rows: int | None
    """None when it has no end, or none that is known."""
    fingerprint: str
    """sha256 of the rows and operations."""


class Dataset:
    """Reads problems."""

    def __init__(self, suite: Suite, call: Caller) -> None:
        self._suite = suite
        self._call = call

    async def problems(self, source: ProblemSource, batch: int) -> Sequence[Problem]:
        """The problems of a batch, by its number from 0; none behind the last batch."""
        request = GetBatchRequest(dataset=source.dataset, batching=source.batching, cursor=Cursor(batch=batch))
        try:
            answer = await self._call("dataset", self._suite.datasets.GetBatch, request)
        except CallFailed as failure:
            if failure.error.reason == "END_OF_DATA":
                return ()
            raise
        shapes = {row.WhichOneof("row") for row in answer.batch.rows}
        if shapes - {"problem"}:
            raise CallFailed(
                "BAD_ROW",
                f"dataset: rows are {' and '.join(sorted(map(str, shapes)))}, but problems are needed: end its "
                "operations with canonicalize to the shape problem",
            )
        return [row.problem for row in answer.batch.rows]

    async def options(self, entry: str) -> Collection[str]:
        """Names of the options of a catalogue entry; none when there is no such entry."""
        request = ListDatasetsRequest(page_size=500)
        answer = await self._call("dataset", self._suite.datasets.ListDatasets, request)
        return {name for dataset in answer.datasets if dataset.name == entry for name in dataset.options}

    async def describe(self, dataset: DatasetSpec) -> DatasetFacts:
        """Facts about a dataset."""
        request = DescribeDatasetRequest(dataset=dataset)
        answer = await self._call("dataset", self._suite.datasets.DescribeDataset, request)
        return DatasetFacts(rows=None if answer.rows < 0 else answer.rows, fingerprint=answer.fingerprint)

"""The loss that a request gives as a graph."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tinsmith_server.serving.errors import InvalidArgument
from tinsmith_server.trainer.loss_graph.graph import Graph, bad_node
from tinsmith_server.trainer.loss_graph.levels import Level
from tinsmith_server.trainer.loss_graph.reach import is_sum_over_data
from tinsmith_server.trainer.losses.base import TARGETS, Columns
from tinsmith_server.trainer.losses.needs import Need, Shape
from tinsmith_server.trainer.ragged import Ragged

_MOST_VALUES = 1 << 28
"""Nodes times values: 1 GB of float32 for a graph's gradients, 2 GB where it is computed in float64."""
_TAKEN = frozenset(
    {"loss:sum", "tokens:sum", "base:sum", "regularizer_total:sum"}
    | {f"{space}_grad_norm_{of}:mean" for space in ("logprob", "parameter") for of in ("base", "total")}
)
"""Metrics that are the trainer's own."""
_REDUCTIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "sum": torch.sum,
    "mean": torch.mean,
    "min": torch.min,
    "max": torch.max,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class CustomLoss:
    """See `CustomLoss` of the contract. Every token counts."""

    name: ClassVar[str] = "custom"
    columns: ClassVar[Mapping[str, type]] = {TARGETS: int}
    many_targets: ClassVar[bool] = True
    by_sequence: ClassVar[bool] = True

    graph: Graph
    reductions: Mapping[str, str]
    """Metrics by name and reduction, and the node that each is made of."""

    @property
    def is_sum_over_data(self) -> bool:
        """Whether it can be computed in micro-batches."""
        return is_sum_over_data(self.graph)

    @property
    def inputs(self) -> Mapping[str, Need]:
        """Columns that the graph reads beside the targets."""
        return {
            node.column: Need(
                kind=None,
                shape=Shape.DATUM if node.operation == "input_by_datum" else Shape.TOKENS_OR_TARGETS,
                reader=f"node {node.name!r} of the custom loss",
            )
            for node in self.graph.nodes
            if node.column
        }

    def check(self, columns: Mapping[str, Ragged]) -> None:
        """Whether the graph can be computed with these columns, which are as `inputs` needs them.

        InvalidArgument with reason BAD_LOSS_GRAPH or BATCH_TOO_LARGE.
        """
        targets = columns[TARGETS].values
        values = targets.size * len(self.graph.nodes)
        if values > _MOST_VALUES:
            raise InvalidArgument(
                f"the custom loss has {len(self.graph.nodes)} nodes for {targets.size} targets; their product may be "
                f"{_MOST_VALUES}; send the data in several calls",
                reason="BATCH_TOO_LARGE",
                metadata={"nodes": str(len(self.graph.nodes)), "targets": str(targets.size)},
            )
        kinds = {"input": (Level.TOKEN, Level.TARGETS), "input_by_datum": (Level.DATUM, Level.DATUM)}
        inputs = {
            node.name: kinds[node.operation][columns[node.column].values.ndim - 1]
            for node in self.graph.nodes
            if node.column
        }
        self.graph.levels(Level.TARGETS if targets.ndim == 2 else Level.TOKEN, inputs)
        self._check_places(columns)

    def counts(self, columns: Columns) -> Tensor:
        return torch.ones(len(columns[TARGETS]), dtype=torch.bool)

    def __call__(self, logprobs: Tensor, columns: Columns) -> Tensor:
        value = self.graph.values(logprobs, columns, [self.graph.result])[self.graph.result]
        if value.requires_grad or not logprobs.requires_grad:
            return value
        # A graph that does not read the logprobs has no gradient; this one is 0.
        return value + (logprobs * 0).sum()

    def metrics(self, logprobs: Tensor, columns: Columns) -> Mapping[str, float]:
        values = self.graph.values(logprobs, columns, list(self.reductions.values()))
        found = {
            name: float(_REDUCTIONS[name.rpartition(":")[2]](values[node])) for name, node in self.reductions.items()
        }
        return {"tokens:sum": float(len(logprobs)), **found}

    def _check_places(self, columns: Mapping[str, Ragged]) -> None:
        """Whether each `gather_data` reads places of data that are there."""
        nodes = {node.name: node for node in self.graph.nodes}
        for node in self.graph.nodes:
            if node.operation != "gather_data":
                continue
            source = nodes[node.arguments[1]]
            if source.operation != "input_by_datum":
                raise bad_node(node.name, f"takes its places from {source.name!r}, which is no input_by_datum")
            column = columns[source.column]
            if column.values.dtype.kind != "i" or ((column.values < 0) | (column.values >= len(column))).any():
                what = f"takes its places from {source.column!r}, which must hold integers from 0 to {len(column) - 1}"
                raise bad_node(node.name, what)


def check_metrics(graph: Graph, metrics: Mapping[str, str]) -> None:
    """Whether all metrics are made of nodes that are there. InvalidArgument with reason BAD_LOSS_GRAPH."""
    known = {node.name for node in graph.nodes}
    for name, node in metrics.items():
        if node not in known:
            raise bad_node(node, f"is what metric {name!r} is made of, but there is no such node")
        if name in _TAKEN:
            raise bad_node(node, f"can't be the metric {name!r}, which is that of every loss")

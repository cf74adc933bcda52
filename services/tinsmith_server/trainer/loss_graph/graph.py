"""A loss as a graph of allow-listed operations: how it is checked, and how it is computed."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tinsmith_server.serving.errors import InvalidArgument
from tinsmith_server.trainer.loss_graph.levels import Level, LevelError
from tinsmith_server.trainer.loss_graph.operations import OPERATIONS, SOURCES, Given
from tinsmith_server.trainer.losses.base import SEQUENCES, Columns

_LARGEST = torch.finfo(torch.float32).max


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """One operation; see `LossNode` of the contract."""

    name: str
    operation: str
    arguments: tuple[str, ...] = ()
    options: Mapping[str, float]
    constant: float | None = None
    """Of a "constant"."""
    column: str = ""
    """That an "input" or "input_by_datum" reads."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Graph:
    """Nodes, each after those it refers to. Made by `checked`, so that all names are known and all arguments there."""

    nodes: tuple[Node, ...]
    result: str

    @classmethod
    def checked(cls, nodes: Sequence[Node], result: str) -> "Graph":
        """InvalidArgument with reason OPERATION_NOT_ALLOWED or BAD_LOSS_GRAPH; the metadata name the node."""
        known: set[str] = set()
        readers: dict[str, str] = {}
        for node in nodes:
            _check_node(node, known)
            known.add(node.name)
            if node.column and readers.setdefault(node.column, node.operation) != node.operation:
                raise bad_node(node.name, f"reads {node.column!r} as {node.operation}, an earlier node does otherwise")
        wanted = result or nodes[-1].name
        if wanted not in known:
            raise bad_node(wanted, "is the result, but there is no such node")
        return cls(nodes=tuple(nodes), result=wanted)

    def levels(self, targets: Level, inputs: Mapping[str, Level]) -> Mapping[str, Level]:
        """The shape of every node's value, given those of target_tokens and of the columns.

        InvalidArgument with reason BAD_LOSS_GRAPH where shapes do not fit.
        """
        found: dict[str, Level] = {}
        for node in self.nodes:
            match node.operation:
                case "logprobs":
                    found[node.name] = targets
                case "constant":
                    found[node.name] = Level.SCALAR
                case "input" | "input_by_datum":
                    found[node.name] = inputs[node.name]
                case operation:
                    try:
                        found[node.name] = OPERATIONS[operation].level([found[name] for name in node.arguments])
                    except LevelError as error:
                        raise bad_node(node.name, f"({operation}) {error}") from error
        if found[self.result] is not Level.SCALAR:
            raise bad_node(self.result, f"is the result and must be a scalar, not {found[self.result].value}")
        return found

    def values(self, logprobs: Tensor, columns: Columns, wanted: Sequence[str]) -> Mapping[str, Tensor]:
        """The values of the wanted nodes, with their gradients. A column by datum repeats its value for all tokens."""
        lengths_S = torch.unique_consecutive(columns[SEQUENCES], return_counts=True)[1]
        needed = self._needed(wanted)
        found: dict[str, Tensor] = {}
        for node in self.nodes:
            if node.name in needed:
                found[node.name] = _value(node, found, logprobs, columns, lengths_S)
        return {name: found[name] for name in wanted}

    def _needed(self, wanted: Sequence[str]) -> set[str]:
        """The wanted nodes and all that they are made of."""
        needed = set(wanted)
        for node in reversed(self.nodes):
            if node.name in needed:
                needed.update(node.arguments)
        return needed


def bad_node(node: str, what: str) -> InvalidArgument:
    """The error of a graph that can't be computed."""
    return InvalidArgument(
        f"node {node!r} of the custom loss {what}",
        reason="BAD_LOSS_GRAPH",
        metadata={"node": node},
        violations=[("loss.custom.nodes", f"{node}: {what}")],
    )


def _check_node(node: Node, known: set[str]) -> None:
    if node.operation not in OPERATIONS and node.operation not in SOURCES:
        raise InvalidArgument(
            f"node {node.name!r} of the custom loss asks for the operation {node.operation!r}; there are "
            f"{', '.join([*SOURCES, *OPERATIONS])}",
            reason="OPERATION_NOT_ALLOWED",
            metadata={"node": node.name, "operation": node.operation},
            violations=[("loss.custom.nodes", f"{node.name}: operation not allowed")],
        )
    if node.name in known:
        raise bad_node(node.name, "is there twice")
    for argument in node.arguments:
        if argument not in known:
            raise bad_node(node.name, f"refers to {argument!r}, which is no earlier node")
    operation = OPERATIONS.get(node.operation)
    arity = 0 if operation is None else operation.arity
    if len(node.arguments) != arity:
        raise bad_node(node.name, f"({node.operation}) takes {arity} arguments, not {len(node.arguments)}")
    _check_options(node)
    _check_source(node)


def _check_options(node: Node) -> None:
    operation = OPERATIONS.get(node.operation)
    allowed = frozenset() if operation is None else operation.options
    for name, value in node.options.items():
        if name not in allowed:
            raise bad_node(node.name, f"({node.operation}) has no option {name!r}")
        if not abs(value) <= _LARGEST:
            raise bad_node(node.name, f"has the option {name} {value}, which is no float32")
    if operation is not None and operation.needed and not operation.needed & node.options.keys():
        raise bad_node(node.name, f"({node.operation}) needs the option {' or '.join(sorted(operation.needed))}")


def _check_source(node: Node) -> None:
    if (node.operation == "constant") != (node.constant is not None):
        raise bad_node(node.name, f"({node.operation}) has {'no' if node.constant is None else 'a'} constant")
    if node.constant is not None and not math.isfinite(node.constant):
        raise bad_node(node.name, "is a constant that is not finite")
    if node.operation.startswith("input") != bool(node.column):
        raise bad_node(node.name, f"({node.operation}) has {'a' if node.column else 'no'} column")


def _value(node: Node, found: Mapping[str, Tensor], logprobs: Tensor, columns: Columns, lengths_S: Tensor) -> Tensor:
    match node.operation:
        case "logprobs":
            return logprobs
        case "constant":
            assert node.constant is not None, "checked when the graph was made"
            return logprobs.new_tensor(node.constant)
        case "input":
            return columns[node.column].to(logprobs.dtype)
        case "input_by_datum":
            return columns[node.column][lengths_S.cumsum(0) - lengths_S].to(logprobs.dtype)
        case operation:
            values = [found[name] for name in node.arguments]
            return OPERATIONS[operation].compute(Given(values=values, options=node.options, lengths_S=lengths_S))

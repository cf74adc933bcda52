"""Whether a loss graph can be computed in micro-batches: whether its result is a sum over data of terms that each read
one datum."""

from collections.abc import Mapping
from enum import Enum, auto

from tinsmith_server.trainer.loss_graph.graph import Graph, Node

_OVER_ALL = {"mean", "min", "max", "gather_data"}
"""Operations whose value for a datum, or for all, is no sum of what each datum gives."""


class Reach(Enum):
    """What a node's value depends on."""

    NOTHING = auto()
    """A constant."""
    DATUM = auto()
    """For each datum, on that datum alone."""
    SUM = auto()
    """A scalar whose gradient is a sum over data."""
    ALL = auto()
    """Anything else."""


def is_sum_over_data(graph: Graph) -> bool:
    """Whether the gradients of parts of a batch add up to those of the whole."""
    found: dict[str, Reach] = {}
    for node in graph.nodes:
        found[node.name] = _reach(node, found)
    return found[graph.result] in {Reach.SUM, Reach.NOTHING}


def _reach(node: Node, found: Mapping[str, Reach]) -> Reach:
    arguments = [found[name] for name in node.arguments]
    if node.operation == "constant":
        return Reach.NOTHING
    if all(reach is Reach.NOTHING for reach in arguments) and arguments:
        return Reach.NOTHING
    if node.operation in _OVER_ALL:
        return Reach.ALL
    if set(arguments) <= {Reach.NOTHING, Reach.DATUM}:
        return Reach.SUM if node.operation == "sum" else Reach.DATUM
    return Reach.SUM if _keeps_sum(node.operation, arguments) else Reach.ALL


def _keeps_sum(operation: str, arguments: list[Reach]) -> bool:
    """Whether a sum stays one: negated, scaled by a constant, or added to another or to a constant."""
    match operation, arguments:
        case "neg" | "sum", [Reach.SUM]:
            return True
        case "add" | "sub", [first, second]:
            return {first, second} <= {Reach.SUM, Reach.NOTHING}
        case "mul", [first, second]:
            return {first, second} == {Reach.SUM, Reach.NOTHING}
        case "div", [Reach.SUM, Reach.NOTHING]:
            return True
        case _:
            return False

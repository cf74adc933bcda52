"""What is no loss graph is refused, and the node named."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from tests.trainer.graphs import Writer, checked, loss_of
from tinsmith.arrays import tensor
from tinsmith.trainer.v1 import CustomLoss, LossNode
from tinsmith_server.serving.errors import InvalidArgument


def logprobs() -> LossNode:
    return LossNode(name="p", operation="logprobs")


def total(of: str = "p", **fields: Any) -> LossNode:
    return LossNode(**{"name": "total", "operation": "sum", "arguments": [of], **fields})


BAD: Mapping[str, tuple[list[LossNode], str, str]] = {
    "python": ([logprobs(), total(operation="os.system")], "OPERATION_NOT_ALLOWED", "total"),
    "attribute": ([logprobs(), total(operation="__class__")], "OPERATION_NOT_ALLOWED", "total"),
    "torch": ([logprobs(), total(operation="torch.sum")], "OPERATION_NOT_ALLOWED", "total"),
    "backward": ([logprobs(), total(operation="backward")], "OPERATION_NOT_ALLOWED", "total"),
    "item": ([logprobs(), total(operation="item")], "OPERATION_NOT_ALLOWED", "total"),
    "call_module": ([logprobs(), total(operation="call_module")], "OPERATION_NOT_ALLOWED", "total"),
    "itself": ([logprobs(), total(of="total")], "BAD_LOSS_GRAPH", "total"),
    "forward": ([total(), logprobs()], "BAD_LOSS_GRAPH", "total"),
    "nobody": ([logprobs(), total(of="q")], "BAD_LOSS_GRAPH", "total"),
    "twice": ([logprobs(), logprobs(), total()], "BAD_LOSS_GRAPH", "p"),
    "arity": ([logprobs(), total(arguments=["p", "p"])], "BAD_LOSS_GRAPH", "total"),
    "source arity": ([logprobs(), LossNode(name="q", operation="logprobs", arguments=["p"])], "BAD_LOSS_GRAPH", "q"),
    "option": ([logprobs(), total(options={"dim": 0})], "BAD_LOSS_GRAPH", "total"),
    "no option": ([logprobs(), LossNode(name="c", operation="clamp", arguments=["p"])], "BAD_LOSS_GRAPH", "c"),
    "endless option": (
        [logprobs(), LossNode(name="c", operation="clamp", arguments=["p"], options={"min": -np.inf})],
        "BAD_LOSS_GRAPH",
        "c",
    ),
    "option beyond float32": (
        [logprobs(), LossNode(name="c", operation="clamp", arguments=["p"], options={"max": 1e39})],
        "BAD_LOSS_GRAPH",
        "c",
    ),
    "no constant": ([LossNode(name="c", operation="constant")], "BAD_LOSS_GRAPH", "c"),
    "nan": ([LossNode(name="c", operation="constant", constant=tensor(np.float32(np.nan)))], "BAD_LOSS_GRAPH", "c"),
    "vector": ([LossNode(name="c", operation="constant", constant=tensor([1.0, 2.0]))], "BAD_LOSS_GRAPH", "c"),
    "needless constant": ([logprobs(), total(constant=tensor(1.0))], "BAD_LOSS_GRAPH", "total"),
    "no column": ([LossNode(name="i", operation="input")], "BAD_LOSS_GRAPH", "i"),
    "column in two ways": (
        [LossNode(name="i", operation="input", column="c"), LossNode(name="d", operation="input_by_datum", column="c")],
        "BAD_LOSS_GRAPH",
        "d",
    ),
    "needless column": ([logprobs(), total(column="weights")], "BAD_LOSS_GRAPH", "total"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_graph_is_refused_and_the_node_named(case: str) -> None:
    """T-09"""
    nodes, reason, node = BAD[case]
    with pytest.raises(InvalidArgument) as refused:
        loss_of(CustomLoss(nodes=nodes))
    assert (refused.value.reason, refused.value.metadata["node"]) == (reason, node)


@pytest.mark.parametrize(
    ("graph", "node"),
    [
        (CustomLoss(nodes=[logprobs(), total()], result="loss"), "loss"),
        (CustomLoss(nodes=[logprobs(), total()], metrics={"a:sum": "q"}), "q"),
        (CustomLoss(nodes=[logprobs(), total()], metrics={"loss:sum": "p"}), "p"),
        (CustomLoss(nodes=[logprobs(), total()], metrics={"tokens:sum": "p"}), "p"),
        (CustomLoss(nodes=[logprobs(), total()], metrics={"base:sum": "p"}), "p"),
        (CustomLoss(nodes=[logprobs(), total()], metrics={"parameter_grad_norm_total:mean": "p"}), "p"),
    ],
)
def test_results_and_metrics_are_nodes(graph: CustomLoss, node: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        loss_of(graph)
    assert (refused.value.reason, refused.value.metadata["node"]) == ("BAD_LOSS_GRAPH", node)


def misfits() -> Mapping[str, tuple[CustomLoss, Mapping[str, Any]]]:
    by_datum, no_scalar, no_targets, no_places, far, floats = (Writer() for _ in range(6))
    means = by_datum.node("mean_by_datum", by_datum.node("logprobs"))
    by_datum.node("sum", by_datum.node("mul", means, by_datum.node("logprobs")))
    no_scalar.node("exp", no_scalar.node("logprobs"))
    no_targets.node("sum", no_targets.node("softmax", no_targets.node("logprobs")))
    sums = no_places.node("sum_by_datum", no_places.node("logprobs"))
    no_places.node("sum", no_places.node("gather_data", sums, sums))
    for w in (far, floats):
        sums = w.node("sum_by_datum", w.node("logprobs"))
        w.node("sum", w.node("gather_data", sums, w.input_by_datum("other")))
    return {
        "data with tokens": (by_datum.message(), {}),
        "result of tokens": (no_scalar.message(), {}),
        "targets of tokens": (no_targets.message(), {}),
        "places of no column": (no_places.message(), {}),
        "places too far": (far.message(), {"other": np.array([0, 3, 1])}),
        "places that are no integers": (floats.message(), {"other": np.array([0.0, 1.0, 1.0])}),
    }


@pytest.mark.parametrize("case", misfits())
def test_shapes_that_do_not_fit_are_refused(case: str) -> None:
    """T-09"""
    graph, columns = misfits()[case]
    with pytest.raises(InvalidArgument) as refused:
        checked(graph, columns)
    assert refused.value.reason == "BAD_LOSS_GRAPH"
    assert refused.value.metadata["node"] in {node.name for node in graph.nodes}


def test_too_much_to_keep_is_refused() -> None:
    w = Writer()
    value = w.node("logprobs")
    for _ in range(4000):
        value = w.node("exp", value)
    w.node("sum", value)
    with pytest.raises(InvalidArgument) as refused:
        checked(w.message(), {}, targets=(100_000,))
    assert refused.value.reason == "BATCH_TOO_LARGE"

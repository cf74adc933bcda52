"""Each operation of a loss graph against torch's, and graphs of all of them."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import event, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from tests.trainer.graphs import LENGTHS, Writer, checked, loss_of, sequences
from tinsmith.trainer.v1 import CustomLoss
from tinsmith_server.serving.errors import InvalidArgument
from tinsmith_server.trainer.loss_graph import OPERATIONS, SOURCES
from tinsmith_server.trainer.loss_graph.levels import Level, LevelError
from tinsmith_server.trainer.losses.base import SEQUENCES


def by_parts(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda x: torch.stack([function(part) for part in torch.split(x, LENGTHS)])


ONE_BY_ONE: Mapping[str, Callable[..., Tensor]] = {
    "neg": torch.neg,
    "abs": torch.abs,
    "square": torch.square,
    "exp": torch.exp,
    "expm1": torch.expm1,
    "sigmoid": torch.sigmoid,
    "log_sigmoid": F.logsigmoid,
    "softplus": F.softplus,
    "tanh": torch.tanh,
    "relu": torch.relu,
    "sqrt": torch.sqrt,
    "log": torch.log,
    "log1p": torch.log1p,
}
OF_TWO: Mapping[str, Callable[..., Tensor]] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    "minimum": torch.minimum,
    "maximum": torch.maximum,
}
COMPARISONS: Mapping[str, Callable[..., Tensor]] = {
    "lt": torch.lt,
    "le": torch.le,
    "gt": torch.gt,
    "ge": torch.ge,
    "eq": torch.eq,
    "ne": torch.ne,
}
OF_TOKENS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "sum_by_datum": by_parts(torch.sum),
    "mean_by_datum": by_parts(torch.mean),
    "min_by_datum": by_parts(torch.min),
    "max_by_datum": by_parts(torch.max),
    "cumsum_by_datum": lambda x: torch.cat([part.cumsum(0) for part in torch.split(x, LENGTHS)]),
    "sum": torch.sum,
    "mean": torch.mean,
    "min": torch.min,
    "max": torch.max,
}
OF_TARGETS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "sum_over_targets": lambda x: x.sum(1),
    "mean_over_targets": lambda x: x.mean(1),
    "max_over_targets": lambda x: x.max(1).values,
    "logsumexp": lambda x: x.exp().sum(1).log(),
    "softmax": lambda x: x.exp() / x.exp().sum(1, keepdim=True),
    "log_softmax": lambda x: x - x.exp().sum(1, keepdim=True).log(),
}


def assert_computes(graph: CustomLoss, p: Tensor, columns: dict[str, Tensor], expected: Tensor) -> None:
    value = loss_of(graph)(p, columns)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(torch.autograd.grad(value, p), torch.autograd.grad(expected, p))


def uneven(w: Writer, value: str) -> CustomLoss:
    """A graph whose loss is the sum of squares of a value, so that its gradients differ from place to place."""
    w.node("sum", w.node("square", value))
    return w.message()


@pytest.mark.parametrize("name", [*ONE_BY_ONE, *OF_TOKENS])
def test_operations_of_one_value(name: str) -> None:
    p = torch.rand(6, dtype=torch.float64).add(0.1).requires_grad_()
    w = Writer()
    expected = {**ONE_BY_ONE, **OF_TOKENS}[name](p).square().sum()
    assert_computes(uneven(w, w.node(name, w.node("logprobs"))), p, {SEQUENCES: sequences()}, expected)


@pytest.mark.parametrize("name", OF_TARGETS)
def test_operations_over_targets(name: str) -> None:
    p = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    w = Writer()
    expected = OF_TARGETS[name](p).square().sum()
    assert_computes(uneven(w, w.node(name, w.node("logprobs"))), p, {SEQUENCES: sequences()}, expected)


@pytest.mark.parametrize("name", OF_TWO)
@pytest.mark.parametrize("shapes", ["alike", "scalar", "token and targets"])
def test_operations_of_two_values(name: str, shapes: str) -> None:
    p = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    other = torch.randn((6,) if shapes == "token and targets" else (6, 4), dtype=torch.float64)
    w = Writer()
    first = w.node("logprobs")
    second = w.constant(0.75) if shapes == "scalar" else w.input("other")
    beside = {"alike": other, "scalar": torch.tensor(0.75, dtype=torch.float64)}.get(shapes, other.unsqueeze(-1))
    expected = OF_TWO[name](p, beside).square().sum()
    columns = {"other": other, SEQUENCES: sequences()}
    assert_computes(uneven(w, w.node(name, first, second)), p, columns, expected)


@pytest.mark.parametrize("name", COMPARISONS)
def test_comparisons_choose(name: str) -> None:
    p = torch.tensor([1.0, 2.0, 3.0, 1.0, 0.0, -1.0], dtype=torch.float64, requires_grad=True)
    w = Writer()
    compared = w.node(name, w.node("logprobs"), w.constant(1))
    graph = uneven(w, w.node("where", compared, w.node("logprobs"), w.constant(5)))
    is_true = COMPARISONS[name](p, torch.tensor(1.0))
    expected = torch.where(is_true, p, 5.0).square().sum()
    assert_computes(graph, p, {SEQUENCES: sequences()}, expected)


def test_operations_with_options() -> None:
    p = torch.tensor([1.0, 2.0, 3.0, 1.5, 0.5, 4.0], dtype=torch.float64, requires_grad=True)
    backwards = torch.cat([part.flip(0).cumsum(0).flip(0) for part in torch.split(p, LENGTHS)])
    cases: list[tuple[str, dict[str, float], Tensor]] = [
        ("clamp", {"min": 1.2}, p.clamp(min=1.2)),
        ("clamp", {"max": 1.7}, p.clamp(max=1.7)),
        ("clamp", {"min": 1.2, "max": 3.5}, p.clamp(1.2, 3.5)),
        ("pow", {"exponent": 1.5}, p**1.5),
        ("cumsum_by_datum", {"reverse": 1.0}, backwards),
    ]
    for name, options, value in cases:
        w = Writer()
        graph = uneven(w, w.node(name, w.node("logprobs"), **options))
        assert_computes(graph, p, {SEQUENCES: sequences()}, value.square().sum())


def test_values_move_between_tokens_and_data() -> None:
    p = torch.randn(6, dtype=torch.float64, requires_grad=True)
    w = Writer()
    sums_D = w.node("sum_by_datum", w.node("logprobs"))
    others_D = w.node("gather_data", sums_D, w.input_by_datum("other"))
    detached = w.node("detach", w.node("logprobs"))
    graph = uneven(w, w.node("mul", w.node("to_tokens", others_D), detached))
    by_datum = by_parts(torch.sum)(p)[[2, 0, 0]]
    expected = (by_datum.repeat_interleave(torch.tensor(LENGTHS)) * p.detach()).square().sum()
    columns = {"other": torch.tensor([2, 0, 0])[sequences()], SEQUENCES: sequences()}
    assert_computes(graph, p, columns, expected)


def test_every_operation_is_tried_above() -> None:
    tried = {*ONE_BY_ONE, *OF_TWO, *COMPARISONS, *OF_TOKENS, *OF_TARGETS}
    assert {*OPERATIONS} - tried == {"where", "detach", "pow", "clamp", "to_tokens", "gather_data"}


def test_the_contract_lists_every_operation() -> None:
    from tests.contract.test_reasons import comments

    listed = comments("trainer").split("One operation of a custom loss.")[1].split()
    assert [name for name in (*SOURCES, *OPERATIONS) if name not in listed] == []


SETTINGS = st.fixed_dictionaries({name: st.sampled_from([0.5, 1.0, 2.0]) for name in ("min", "exponent", "reverse")})


def is_plausible(operation: str, levels: list[Level]) -> bool:
    try:
        OPERATIONS[operation].level(levels)
    except LevelError:
        return False
    return True


@st.composite
def graphs(draw: st.DrawFn, targets: Level) -> CustomLoss:
    """Graphs of all operations, most of which can be computed."""
    w, levels = Writer(), {}
    levels[w.node("logprobs")] = targets
    levels[w.input("weights")] = targets
    levels[w.input_by_datum("places")] = Level.DATUM
    levels[w.constant(draw(st.sampled_from([-1.0, 0.0, 0.5])))] = Level.SCALAR
    for _ in range(draw(st.integers(1, 8))):
        operation = draw(st.sampled_from([*OPERATIONS]))
        known = OPERATIONS[operation]
        arguments = [draw(st.sampled_from([*levels])) for _ in range(known.arity)]
        found = [levels[name] for name in arguments]
        if is_plausible(operation, found):
            options = {key: value for key, value in draw(SETTINGS).items() if key in known.options}
            levels[w.node(operation, *arguments, **options)] = known.level(found)
        elif not draw(st.integers(0, 20)):
            w.node(operation, *arguments)
    w.node("sum", draw(st.sampled_from([*levels])))
    return w.message()


def refusal(graph: CustomLoss, columns: Mapping[str, Any], targets: tuple[int, ...]) -> str:
    """The reason why a graph is refused; empty when it is not."""
    try:
        checked(graph, columns, targets)
    except InvalidArgument as refused:
        return refused.reason
    return ""


@pytest.mark.parametrize(("level", "targets"), [(Level.TOKEN, (6,)), (Level.TARGETS, (6, 2))])
@given(data=st.data())
@settings(max_examples=200)
def test_a_graph_is_refused_with_a_reason_or_computed(data: st.DataObject, level: Level, targets: Any) -> None:
    """T-09: whatever is sent; in micro-batches too, where the graph is said to allow it."""
    graph = data.draw(graphs(level))
    p = torch.randn(targets, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    given_columns = {"places": np.array([1, 2, 0]), "weights": np.linspace(-1, 1, p.numel()).reshape(targets)}
    if refusal(graph, given_columns, targets):
        assert refusal(graph, given_columns, targets) == "BAD_LOSS_GRAPH"
        event("refused")
        return
    loss = loss_of(graph)
    event("sum over data" if loss.is_sum_over_data else "of the whole call")
    columns = {
        "places": torch.tensor([1, 2, 0])[sequences()],
        "weights": torch.from_numpy(given_columns["weights"]),
        SEQUENCES: sequences(),
    }
    value = loss(p, columns)
    (whole,) = torch.autograd.grad(value, p)
    assert value.shape == ()
    assert whole.shape == p.shape
    if not loss.is_sum_over_data:
        return
    for datum in range(3):
        mine = sequences() == datum
        part = loss(p[mine], {name: column[mine] for name, column in columns.items()})
        found = torch.autograd.grad(part, p)[0][mine]
        torch.testing.assert_close(found, whole[mine], equal_nan=True)

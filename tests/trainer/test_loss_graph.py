"""The contract's losses and DPO as graphs, and which graphs are sums over data."""

from dataclasses import asdict
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from torch.nn import functional as F

from tests.trainer.graphs import Writer, builtin, dpo, loss_of, sequences
from tests.trainer.loss_cases import Case
from tests.trainer.test_losses import CASES, POLICY_LOSSES, gradient
from tinsmith_server.trainer.losses import CrossEntropy
from tinsmith_server.trainer.losses.base import SEQUENCES


@pytest.mark.parametrize("loss", POLICY_LOSSES, ids=str)
@given(case=CASES)
@settings(max_examples=40)
def test_each_loss_as_a_graph_is_the_builtin(loss: Any, case: Case) -> None:
    """T-09"""
    graph = loss_of(builtin(loss.name, **asdict(loss)))
    ours, theirs = graph(case.p, case.columns), loss(case.p, case.columns)
    # The graph's constants are float32.
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(gradient(ours, case), gradient(theirs, case), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shape", [(9,), (9, 3)])
def test_cross_entropy_as_a_graph_is_the_builtin(shape: tuple[int, ...]) -> None:
    p, weights = torch.randn(shape, dtype=torch.float64, requires_grad=True), torch.randn(shape, dtype=torch.float64)
    columns = {"weights": weights, SEQUENCES: torch.arange(9) // 4}
    ours, theirs = loss_of(builtin("cross_entropy"))(p, columns), CrossEntropy()(p, columns)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(torch.autograd.grad(ours, p), torch.autograd.grad(theirs, p))


def test_dpo_as_a_graph() -> None:
    """T-09: four data, two pairs; against the formula in torch."""
    chance = torch.Generator().manual_seed(0)
    sequences = torch.tensor([0, 0, 1, 2, 2, 2, 3])
    p, reference, weights = (torch.randn(7, generator=chance, dtype=torch.float64) for _ in range(3))
    p.requires_grad_()
    columns = {
        "reference": reference,
        "weights": (weights > -1).double(),
        "is_chosen": torch.tensor([1, 0, 0, 1])[sequences],
        "partner": torch.tensor([2, 3, 0, 1])[sequences],
        SEQUENCES: sequences,
    }
    loss = loss_of(dpo(beta=0.1))
    value = loss(p, columns)
    sums = [((p - reference) * columns["weights"])[sequences == datum].sum() for datum in range(4)]
    margins = torch.stack([sums[0] - sums[2], sums[3] - sums[1]])
    expected = -F.logsigmoid(0.1 * margins).mean()
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(torch.autograd.grad(value, p), torch.autograd.grad(expected, p), rtol=1e-6, atol=1e-6)
    found = loss.metrics(p.detach(), columns)
    assert found["accuracy:mean"] == pytest.approx(float((margins > 0).double().mean()))
    assert found["margin:max"] == pytest.approx(float(margins.detach().abs().max()))


def test_dpo_begins_at_the_logarithm_of_two() -> None:
    """Recipe dpo: policy and reference alike."""
    p = torch.randn(4, dtype=torch.float64)
    columns = {
        "reference": p,
        "weights": torch.ones(4),
        "is_chosen": torch.tensor([1, 1, 0, 0]),
        "partner": torch.tensor([1, 1, 0, 0]),
        SEQUENCES: torch.tensor([0, 0, 1, 1]),
    }
    loss = loss_of(dpo(beta=0.1))
    assert float(loss(p, columns).detach()) == pytest.approx(0.693147, abs=1e-6)
    assert loss.metrics(p, columns)["accuracy:mean"] == 0.0


def test_which_graphs_are_sums_over_data() -> None:
    for loss in POLICY_LOSSES:
        assert loss_of(builtin(loss.name, **asdict(loss))).is_sum_over_data, loss  # type: ignore[call-overload]
    assert not loss_of(dpo(0.1)).is_sum_over_data
    scaled, mean, squared = Writer(), Writer(), Writer()
    half = scaled.node("mul", scaled.constant(0.5), scaled.node("sum", scaled.node("logprobs")))
    scaled.node("add", half, scaled.node("sum", scaled.node("square", scaled.node("logprobs"))))
    mean.node("mean", mean.node("logprobs"))
    squared.node("square", squared.node("sum", squared.node("logprobs")))
    assert [loss_of(w.message()).is_sum_over_data for w in (scaled, mean, squared)] == [True, False, False]


def test_a_graph_that_ignores_the_model_has_no_gradient() -> None:
    w = Writer()
    w.node("sum", w.input("weights"))
    p = torch.randn(6, dtype=torch.float64, requires_grad=True)
    value = loss_of(w.message())(p, {"weights": torch.ones(6), SEQUENCES: sequences()})
    assert float(value.detach()) == 6.0
    assert not torch.autograd.grad(value, p)[0].any()

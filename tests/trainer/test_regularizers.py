"""Regularizers against their fixtures, torch's own formulas and finite differences; without a model, in float64."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, kl_divergence

from tests.trainer.regularizer_cases import CASES, FULL, TOKENS, TOP_K, Data, term
from tinsmith_server.serving.errors import InvalidArgument
from tinsmith_server.trainer.losses.base import SEQUENCES, TARGETS
from tinsmith_server.trainer.regularizers import REGULARIZERS, made

X = torch.tensor([-1.0, -2.0, -0.5], dtype=torch.float64)
P = torch.tensor([[0.4, 0.3, 0.2, 0.1]], dtype=torch.float64)
UNIFORM = torch.full((1, 4), 0.25, dtype=torch.float64)
ROWS = torch.tensor([[1.0, 0.0], [1.0, 1.0]], dtype=torch.float64)


def one_datum(x: Tensor, reference: Tensor | None = None) -> Data:
    columns = {TARGETS: torch.zeros(x.shape, dtype=torch.int64), SEQUENCES: torch.zeros(len(x), dtype=torch.int64)}
    if reference is not None:
        columns["reference"] = reference
    return Data(x=x, columns=columns, over=TOP_K if x.ndim == 2 else TOKENS)


@pytest.mark.parametrize(
    ("kind", "options", "choices", "expected"),
    [
        ("l1", {}, {}, 3.5),
        ("l2", {}, {}, 5.25),
        ("l2", {}, {"around": "mean"}, 1.16667),
        ("elastic_net", {"l1_ratio": 0.5}, {}, 4.375),
        ("gradient_penalty", {}, {"function": "sum"}, 0.535898),
        ("output_magnitude", {"target_norm": 1.0}, {}, (math.sqrt(5.25) - 1) ** 2),
    ],
)
def test_fixtures_of_target_logprobs(kind: str, options: Any, choices: Any, expected: float) -> None:
    """R-03: x = [-1, -2, -0.5]"""
    assert float(one_datum(X).value(term(TOKENS, kind, options, choices))) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("kind", "options", "choices", "expected"),
    [
        ("entropy", {}, {"mode": "minimize"}, 1.27985),
        ("entropy", {}, {"mode": "maximize"}, -1.27985),
        ("entropy", {"normalize": 1.0}, {"mode": "minimize"}, 0.92322),
        ("entropy", {"temperature": 0.5}, {"mode": "minimize"}, 1.07848),
        ("kl", {}, {}, 0.10644),
        ("kl", {}, {"direction": "reverse"}, 0.12178),
        ("kl", {}, {"direction": "symmetric"}, 0.11411),
        ("js", {}, {}, 0.027866),
        ("consistency", {}, {"metric": "kl"}, 0.11411),
    ],
)
def test_fixtures_of_distributions(kind: str, options: Any, choices: Any, expected: float) -> None:
    """R-03: p = [.4, .3, .2, .1], q uniform"""
    data = one_datum(P.log(), UNIFORM.log())
    assert float(data.value(term(TOP_K, kind, options, choices))) == pytest.approx(expected, abs=6e-6)


@pytest.mark.parametrize(
    ("options", "choices", "expected"),
    [
        ({}, {}, 1.0),
        ({}, {"mode": "hard"}, 1.0),
        ({"normalize": 0.0}, {"mode": "hard"}, 3.0),
        ({}, {"mode": "spectral"}, 1.0),
        ({"normalize": 0.0}, {"mode": "spectral"}, 3.0),
    ],
)
def test_fixtures_of_orthogonality(options: Any, choices: Any, expected: float) -> None:
    """R-03: X = [[1, 0], [1, 1]]"""
    data = one_datum(ROWS)
    assert float(data.value(term(TOP_K, "orthogonality", options, choices))) == pytest.approx(expected)


def test_a_datum_without_length_has_no_direction() -> None:
    """Logprobs are exactly 0 where a model is certain; a small divisor would make their gradient huge."""
    x = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    value = one_datum(x, X).value(term(TOKENS, "consistency", {}, {"metric": "cosine"}))
    assert float(value.detach()) == 1.0
    assert torch.autograd.grad(value, x)[0].tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("metric", ["mse", "l1", "cosine", "kl"])
def test_what_equals_its_pair_is_consistent(metric: str) -> None:
    """R-03"""
    assert float(one_datum(P, P).value(term(TOP_K, "consistency", {}, {"metric": metric}))) == pytest.approx(0)


@pytest.mark.parametrize("kind", ["l1", "l2"])
def test_gradient_norms_of_the_fixtures(kind: str) -> None:
    """R-04: L1 of three values 1.7321, L2 of [-1, -2, -.5] 4.5826"""
    leaf = X.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(one_datum(leaf).value(term(TOKENS, kind, {}, {})), leaf)
    assert float(gradient.norm()) == pytest.approx({"l1": 1.7321, "l2": 4.5826}[kind], abs=5e-5)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradients_are_those_of_finite_differences(case: Any) -> None:
    """R-03"""
    data, chosen = Data.random(case[0]), term(*case)
    leaf = data.x.clone().requires_grad_()
    (found,) = torch.autograd.grad(data.value(chosen, leaf), leaf)
    assert found.abs().max() > 1e-3
    step = 1e-6
    for place in range(data.x.numel()):
        shift = torch.zeros_like(data.x)
        shift.view(-1)[place] = step
        higher, lower = (float(data.value(chosen, data.x + sign * shift)) for sign in (1, -1))
        assert float(found.view(-1)[place]) == pytest.approx((higher - lower) / (2 * step), rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_value_is_the_sum_over_data_in_any_order(case: Any) -> None:
    data, chosen = Data.random(case[0]), term(*case)
    whole = float(data.value(chosen))
    if case[2].get("seed"):  # its draws depend on the data's order
        return
    assert float(data.data([2, 0, 1]).value(chosen)) == pytest.approx(whole)
    assert sum(float(data.data([number]).value(chosen)) for number in range(3)) == pytest.approx(whole)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_a_mask_leaves_out_does_not_count(case: Any) -> None:
    data, chosen = Data.random(case[0]), term(*case, mask="mask")
    kept = data.columns["mask"] != 0
    rest = Data(x=data.x[kept], columns={n: column[kept] for n, column in data.columns.items()}, over=data.over)
    assert float(data.value(chosen)) == pytest.approx(float(rest.value(term(*case))))
    nothing = {**data.columns, "mask": torch.zeros_like(data.columns["mask"])}
    assert float(Data(x=data.x, columns=nothing, over=data.over).value(chosen)) == 0.0


@pytest.mark.parametrize("over", [TOP_K, FULL])
def test_divergences_are_those_of_torch(over: str) -> None:
    data = Data.random(over)
    p, q = Categorical(logits=data.x), Categorical(logits=data.columns["reference"])
    m = Categorical(probs=(p.probs + q.probs) / 2)
    expected = {
        ("kl", "forward"): kl_divergence(p, q),
        ("kl", "reverse"): kl_divergence(q, p),
        ("kl", "symmetric"): (kl_divergence(p, q) + kl_divergence(q, p)) / 2,
        ("js", ""): (kl_divergence(p, m) + kl_divergence(q, m)) / 2,
        ("entropy", ""): -p.entropy(),
    }
    for (kind, direction), values in expected.items():
        choices = {"direction": direction} if direction else {}
        assert float(data.value(term(over, kind, {}, choices))) == pytest.approx(float(values.sum())), kind


@pytest.mark.parametrize("case", [("kl", {}, {}), ("kl", {}, {"direction": "reverse"}), ("js", {}, {})], ids=str)
def test_a_reference_with_zeros_costs_a_bounded_amount(case: Any) -> None:
    data = Data.random(FULL)
    reference = data.columns["reference"].clone()
    reference[:, 2:] = -math.inf
    leaf = data.x.clone().requires_grad_()
    value = Data(x=leaf, columns={**data.columns, "reference": reference}, over=FULL).value(term(FULL, *case))
    (gradient,) = torch.autograd.grad(value, leaf)
    assert 0 < float(value.detach()) < 100 * len(leaf)
    assert gradient.isfinite().all()


def test_estimators_of_kl_are_right_on_average() -> None:
    """Schulman's k1, k2 and k3 over many samples of p; k2 with its bias, which is small for near distributions."""
    chance = torch.Generator().manual_seed(0)
    logp = torch.randn(6, generator=chance, dtype=torch.float64).log_softmax(0)
    logq = (logp + 0.1 * torch.randn(6, generator=chance, dtype=torch.float64)).log_softmax(0)
    sampled = torch.multinomial(logp.exp(), 200_000, replacement=True, generator=chance)
    exact = float((logp.exp() * (logp - logq)).sum())
    for estimator, tolerance in (("k1", 0.1), ("k2", 0.1), ("k3", 0.03)):
        data = one_datum(logp[sampled], logq[sampled])
        chosen = term(TOKENS, "kl", {}, {"estimator": estimator, "reduction": "mean"})
        assert float(data.value(chosen)) == pytest.approx(exact, rel=tolerance), estimator


def test_interpolation_depends_on_the_seed_alone() -> None:
    data = Data.random(TOKENS)
    values = [
        float(data.value(term(TOKENS, "gradient_penalty", {"seed": seed}, {"at": "interpolated"})))
        for seed in (1.0, 1.0, 2.0)
    ]
    assert values[0] == values[1] != values[2]


@pytest.mark.parametrize(
    ("kind", "options", "choices", "named"),
    [
        ("l1", {"l1_ratio": 0.5}, {}, "l1_ratio"),
        ("elastic_net", {"l1_ratio": 1.5}, {}, "l1_ratio"),
        ("l1", {"lambda": -1.0}, {}, "lambda"),
        ("l1", {"lambda": math.nan}, {}, "lambda"),
        ("l1", {"lambda_": 1.0}, {}, "lambda_"),
        ("l1", {"reduction": 1.0}, {}, "reduction"),
        ("kl", {}, {"direction": "sideways"}, "direction"),
        ("kl", {}, {"clip": "1"}, "clip"),
        ("entropy", {"temperature": 0.0}, {}, "temperature"),
        ("js", {"__class__": 1.0}, {}, "__class__"),
    ],
)
def test_settings_that_a_kind_does_not_have_are_refused(kind: str, options: Any, choices: Any, named: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        made(REGULARIZERS[kind], "mine", options, choices)
    assert refused.value.reason == "BAD_REGULARIZER"
    assert refused.value.metadata == {"regularizer": "mine", "setting": named}

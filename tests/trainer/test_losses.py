"""Losses against their formulas in the contract: values by a plain loop, gradients by autograd and by differences."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.trainer.loss_cases import Case, by_loop
from tests.trainer.models import batch, formula, trained
from tinsmith_server.trainer.losses import Cispo, Dro, Gspo, ImportanceSampling, Loss, Ppo
from tinsmith_server.trainer.losses.base import SEQUENCES
from tinsmith_server.trainer.request import TrainingCall

POLICY_LOSSES = [
    ImportanceSampling(),
    Ppo(),
    Ppo(clip_low=0.5, clip_high=3.0),
    Cispo(),
    Cispo(clip_low=0.9, clip_high=1.1),
    Dro(),
    Dro(beta=0.0),
    Dro(beta=0.7),
    Gspo(),
    Gspo(clip_low=0.8, clip_high=1.2),
]


def random_case(seed: int, spread: float = 0.5) -> Case:
    chance = np.random.default_rng(seed)
    lengths = [1, 5, 2, 9]
    return Case.of(
        [
            [(-chance.exponential(), chance.normal() * spread, chance.choice([-1.3, 0.0, 0.7])) for _ in range(length)]
            for length in lengths
        ]
    )


FAR = [(-1.0, 9000.0), (-2.0, 0.0)]
"""p, and p - q, of two tokens; the first was all but impossible for the sampler, and exp(p - q) overflows."""


@pytest.mark.parametrize("advantage", [1.0, 0.0], ids=["clipped", "without advantage"])
@pytest.mark.parametrize("loss", POLICY_LOSSES, ids=str)
def test_a_ratio_that_overflows_spoils_nothing_where_it_has_no_say(loss: Loss, advantage: float) -> None:
    """Each in a sequence of its own. Not so where its product counts, as it always does in importance sampling."""
    if isinstance(loss, ImportanceSampling) and advantage:
        pytest.skip("the loss itself is infinite")
    case = Case.of([[(*token, a)] for token, a in zip(FAR, (advantage, 1.0), strict=True)])
    value = loss(case.p, case.columns)
    assert math.isfinite(float(value.detach()))
    found = gradient(value, case)
    assert found.isfinite().all()
    if isinstance(loss, Ppo | Gspo) or (isinstance(loss, Cispo) and not advantage):
        assert found.tolist() == [0.0, -1.0]


PROMPT = st.tuples(st.floats(-8, 0), st.just(0.0), st.just(0.0)).map(lambda token: (token[0], token[0], 0.0))
SAMPLED = st.tuples(
    st.floats(-8, 0), st.floats(-3, 3) | st.floats(-1e-3, 1e-3), st.just(0.0) | st.floats(-3, 3, allow_subnormal=False)
)
CASES = st.lists(st.lists(PROMPT | SAMPLED, min_size=1, max_size=7), min_size=1, max_size=5).map(Case.of)


def gradient(value: Tensor, case: Case) -> Tensor:
    return torch.autograd.grad(value, case.p)[0]


@pytest.mark.parametrize("loss", POLICY_LOSSES, ids=str)
@given(case=CASES)
def test_value_and_gradient_are_those_of_the_formula(loss: Loss, case: Case) -> None:
    """T-10"""
    value = loss(case.p, case.columns)
    assert float(value.detach()) == pytest.approx(by_loop(loss, case), rel=1e-9, abs=1e-9)
    expected = gradient(formula(loss, case.p, case.columns, case.lengths), case)
    torch.testing.assert_close(gradient(value, case), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("loss", POLICY_LOSSES, ids=str)
@given(case=CASES)
def test_tokens_that_do_not_count_contribute_nothing(loss: Loss, case: Case) -> None:
    counted = loss.counts(case.columns)
    value, alone = loss(case.p, case.columns), loss(*case.only(counted))
    assert float(value.detach()) == pytest.approx(float(alone.detach()), rel=1e-9, abs=1e-9)
    torch.testing.assert_close(gradient(value, case), gradient(alone, case), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("loss", POLICY_LOSSES, ids=str)
@given(case=CASES)
def test_a_batch_is_the_sum_of_its_sequences(loss: Loss, case: Case) -> None:
    parts = [float(loss(*case.only(case.columns[SEQUENCES] == number)).detach()) for number in range(len(case.lengths))]
    assert float(loss(case.p, case.columns).detach()) == pytest.approx(sum(parts), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("loss", POLICY_LOSSES, ids=str)
@pytest.mark.parametrize("seed", range(5))
def test_in_single_precision_it_stays_within_the_tolerance(loss: Loss, seed: int) -> None:
    """T-10"""
    case = random_case(seed)
    p = case.p.detach().float().requires_grad_()
    columns = {name: column if name == SEQUENCES else column.float() for name, column in case.columns.items()}
    value = loss(p, columns)
    assert float(value.detach()) == pytest.approx(by_loop(loss, case), rel=1e-5, abs=1e-5)
    expected = gradient(formula(loss, case.p, case.columns, case.lengths), case)
    torch.testing.assert_close(torch.autograd.grad(value, p)[0].double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("loss", [Dro(), Gspo(clip_low=0.8, clip_high=1.2), Ppo()], ids=str)
def test_the_gradient_is_that_of_finite_differences(loss: Loss) -> None:
    case = random_case(1)
    found, step = gradient(loss(case.p, case.columns), case), 1e-6
    for place in range(len(case.p)):
        shift = torch.zeros_like(case.p)
        shift[place] = step
        higher, lower = (float(loss((case.p + sign * shift).detach(), case.columns)) for sign in (1, -1))
        assert float(found[place]) == pytest.approx((higher - lower) / (2 * step), abs=1e-7)


def test_cispos_gradient_goes_through_p_alone() -> None:
    """The differences are those of the formula with the clipped ratio held fast."""
    case, loss = random_case(1), Cispo(clip_low=0.8, clip_high=1.2)
    ratio = (case.p.detach() - case.columns["logprobs"]).exp()
    assert (ratio > 1.2).any()
    expected = -ratio.clamp(0.8, 1.2) * case.columns["advantages"]
    torch.testing.assert_close(gradient(loss(case.p, case.columns), case), expected)


def test_gspos_gradient_is_the_same_for_all_tokens_of_a_sequence_that_count() -> None:
    case = Case.of([[(-1.0, 0.02, 0.5), (-2.0, -0.05, 0.5), (-0.3, 0.2, 0.0), (-0.5, 0.04, 0.5)]])
    found = gradient(Gspo(clip_low=0.9, clip_high=1.1)(case.p, case.columns), case)
    s = math.exp((0.02 - 0.05 + 0.04) / 3)
    np.testing.assert_allclose(found, [-0.5 * s, -0.5 * s, 0.0, -0.5 * s])


@pytest.mark.parametrize(
    ("loss", "up", "down"),
    [
        # A change of p that raises r beyond the bounds, and the token's gradient for A = 1 and A = -1.
        (Ppo(), 0.0, math.e),
        (Cispo(clip_high=2.0), -2.0, 2.0),
        (Gspo(), 0.0, math.e),
    ],
    ids=str,
)
def test_what_clipping_leaves_of_the_gradient(loss: Loss, up: float, down: float) -> None:
    for advantage, expected in ((1.0, up), (-1.0, down)):
        case = Case.of([[(-1.0, 1.0, advantage)]])
        assert float(gradient(loss(case.p, case.columns), case)) == pytest.approx(expected)


@pytest.mark.parametrize("loss", POLICY_LOSSES, ids=str)
def test_no_token_that_counts_is_no_loss(loss: Loss) -> None:
    case = Case.of([[(-1.0, -1.0, 0.0)] * 3])
    value = loss(case.p, case.columns)
    assert float(value.detach()) == 0.0
    assert not gradient(value, case).any()
    assert loss.metrics(*(case.only(loss.counts(case.columns)))) == {"tokens:sum": 0.0}


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (Ppo(clip_low=0.8, clip_high=1.2), 2 / 5),
        (Cispo(clip_low=0.8, clip_high=1.2), 3 / 5),
        (Gspo(clip_low=0.9, clip_high=1.1), 4 / 5),
    ],
    ids=str,
)
def test_the_clipped_share_is_one_of_tokens(loss: Loss, expected: float) -> None:
    """A sequence above the bounds, two of its tokens within; one below; and one above with a negative advantage, which
    only CISPO clips."""
    case = Case.of([[(-1.0, 0.5, 1.0), (-1.0, 0.1, 1.0), (-1.0, 0.0, 1.0)], [(-1.0, -0.5, -1.0)], [(-1.0, 0.5, -1.0)]])
    found = loss.metrics(case.p.detach(), case.columns)
    assert found["clipped:mean"] == pytest.approx(expected)
    assert found["tokens:sum"] == 5.0


@pytest.mark.parametrize("loss", [Cispo(), Dro(), Gspo(), Gspo(clip_low=0.9, clip_high=1.1)], ids=str)
@pytest.mark.parametrize("omit_logprobs", [False, True])
def test_micro_batches_change_neither_loss_nor_gradients(loss: Loss, omit_logprobs: bool) -> None:
    data = batch(loss)
    found = []
    for micro_batch_tokens in (4096, 20, 1):
        model = trained("qwen3", micro_batch_tokens=micro_batch_tokens)
        result = model.forward_backward(TrainingCall(batch=data, loss=loss, omit_logprobs=omit_logprobs))
        found.append((result.metrics, model._adapter.gradients.clone()))
    (whole, gradients), *cut = found
    assert gradients.abs().max() > 1e-3
    for metrics, their_gradients in cut:
        assert metrics == pytest.approx(whole, rel=1e-5, abs=1e-5)
        torch.testing.assert_close(their_gradients, gradients, rtol=1e-5, atol=1e-5)


def test_a_batch_without_advantages_trains_nothing() -> None:
    data, model = batch(Gspo()), trained("qwen3", micro_batch_tokens=20)
    data.columns["advantages"].values[:] = 0
    for omit_logprobs in (False, True):
        result = model.forward_backward(TrainingCall(batch=data, loss=Gspo(), omit_logprobs=omit_logprobs))
        assert result.metrics == {"loss:sum": 0.0, "tokens:sum": 0.0}
    assert not model._adapter.gradients.any()

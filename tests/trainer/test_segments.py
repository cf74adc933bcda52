"""Running sums over the tokens of each datum against torch's own, datum by datum."""

import time

import torch
from hypothesis import given
from hypothesis import strategies as st

from tinsmith_server.trainer.losses.segments import segment_cumsum

LENGTHS = st.lists(st.integers(1, 70), min_size=1, max_size=6)


def by_parts(values: torch.Tensor, lengths: list[int], backward: bool) -> torch.Tensor:
    parts = torch.split(values, lengths)
    return torch.cat([part.flip(0).cumsum(0).flip(0) if backward else part.cumsum(0) for part in parts])


@given(lengths=LENGTHS, backward=st.booleans())
def test_running_sums_and_their_gradients_are_those_of_torch(lengths: list[int], backward: bool) -> None:
    """T-09"""
    values = torch.randn(sum(lengths), dtype=torch.float64, requires_grad=True)
    found = segment_cumsum(values, torch.tensor(lengths), backward=backward)
    expected = by_parts(values, lengths, backward)
    torch.testing.assert_close(found, expected)
    (gradient,) = torch.autograd.grad(found.square().sum(), values)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected.square().sum(), values)[0])


def test_running_sums_can_be_derived_twice() -> None:
    values = torch.randn(6, dtype=torch.float64, requires_grad=True)
    for backward in (False, True):
        assert torch.autograd.gradgradcheck(
            lambda x, way=backward: segment_cumsum(x, torch.tensor([3, 1, 2]), backward=way).exp(), values
        )


@given(before=LENGTHS, after=LENGTHS, backward=st.booleans())
def test_a_datum_has_the_same_bits_whatever_stands_beside_it(
    before: list[int], after: list[int], backward: bool
) -> None:
    own, first = torch.randn(40), sum(before)
    alone = segment_cumsum(own, torch.tensor([40]), backward=backward)
    beside = torch.cat([torch.randn(first), own, torch.randn(sum(after))])
    found = segment_cumsum(beside, torch.tensor([*before, 40, *after]), backward=backward)
    assert torch.equal(found[first : first + 40], alone)


def test_thousands_of_data_are_summed_at_once() -> None:
    """4096 nodes of a loss graph would hold up all tenants for a quarter of an hour if each went datum by datum."""
    values, lengths = torch.ones(8192 * 8), torch.full((8192,), 8)
    began = time.process_time()
    for _ in range(50):
        segment_cumsum(values, lengths)
    assert time.process_time() - began < 2.0, "datum by datum it takes 3.5 s and more"

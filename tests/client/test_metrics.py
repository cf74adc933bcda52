"""Metrics of a call that was sent in parts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinsmith.metrics import merge_metrics


@pytest.mark.parametrize(
    ("suffix", "expected"),
    [("mean", 4), ("sum", 6), ("min", 1), ("max", 5), ("slack", 1), ("hash_unordered", 6), ("else", 4), ("", 4)],
)
def test_metrics_are_merged_by_their_suffix(suffix: str, expected: float) -> None:
    """T-11: 1 and 5, of 1 and 3 outputs."""
    name = f"x:{suffix}" if suffix else "x"
    assert merge_metrics([{name: 1}, {name: 5}], [1, 3]) == {name: expected}


def test_unique_values_are_kept_apart() -> None:
    """T-11"""
    parts = [{"step:unique": 4.0}, {"step:unique": 4.0}, {"step:unique": 9.0}]
    assert merge_metrics(parts, [1, 1, 1]) == {"step:unique": 4.0, "step:unique_2": 4.0, "step:unique_3": 9.0}


def test_only_what_all_parts_have_is_kept() -> None:
    """T-11"""
    assert merge_metrics([{"a:sum": 1, "b:sum": 2}, {"b:sum": 3, "c:sum": 4}], [1, 1]) == {"b:sum": 5}
    assert merge_metrics([], []) == {}


def test_parts_without_weight_have_no_mean() -> None:
    """T-11"""
    assert merge_metrics([{"x:mean": 3}, {"x:mean": 5}], [0, 0]) == {"x:mean": 0.0}


@pytest.mark.parametrize("weights", [[1], [1, -1], [1, 2, 3]])
def test_weights_that_are_none_are_refused(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="weight"):
        merge_metrics([{"x": 1}, {"x": 2}], weights)


VALUES = st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=20)


@given(values=VALUES, cut=st.integers(1, 19))
def test_where_a_batch_is_cut_does_not_matter(values: list[float], cut: int) -> None:
    def metrics(part: list[float]) -> dict[str, float]:
        return {"x:sum": sum(part), "x:mean": sum(part) / len(part), "x:min": min(part), "x:max": max(part)}

    cut = min(cut, len(values) - 1)
    parts = values[:cut], values[cut:]
    merged = merge_metrics([metrics(part) for part in parts], [len(part) for part in parts])
    assert merged == pytest.approx(metrics(values), rel=1e-9, abs=1e-6)

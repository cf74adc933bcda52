"""Metrics of a call that was sent in parts, put together again.

A metric carries in its name how it is reduced: "loss:sum", "ratio:mean", "ratio:max", ...
"""

from collections.abc import Callable, Mapping, Sequence

__all__ = ["merge_metrics"]

_Reduce = Callable[[Sequence[float], Sequence[float]], float]
_HASH_SIZE = 1 << 64


def merge_metrics(parts: Sequence[Mapping[str, float]], weights: Sequence[float]) -> dict[str, float]:
    """The metrics of the whole from those of its parts and a weight for each part, by the suffixes of their names.

    "sum", "min" and "max" are what they say; "mean", and any other suffix or none, is the mean by weight, 0 where no
    part has any; "slack" is the largest less that mean; "unique" keeps the first part's value and adds the others' as
    "name:unique_2", "name:unique_3", ...; "hash_unordered" is the sum of whole numbers modulo 2^64. Only metrics that
    all parts have are kept. The weight of a part is what its means are over: for the trainer's its "tokens:sum".

    ValueError when there are not as many weights as parts, or one is negative.
    """
    if len(parts) != len(weights):
        raise ValueError(f"{len(weights)} weights for {len(parts)} parts")
    if any(weight < 0 for weight in weights):
        raise ValueError("a weight is negative")
    merged: dict[str, float] = {}
    for name in parts[0] if parts else ():
        if all(name in part for part in parts):
            values = [part[name] for part in parts]
            suffix = name.rpartition(":")[2] if ":" in name else ""
            if suffix == "unique":
                merged |= {name if number == 1 else f"{name}_{number}": value for number, value in enumerate(values, 1)}
            else:
                merged[name] = _REDUCTIONS.get(suffix, _mean)(values, weights)
    return merged


def _mean(values: Sequence[float], weights: Sequence[float]) -> float:
    total = sum(weights)
    return sum(value * weight for value, weight in zip(values, weights, strict=True)) / total if total else 0.0


_REDUCTIONS: Mapping[str, _Reduce] = {
    "sum": lambda values, weights: sum(values),
    "min": lambda values, weights: min(values),
    "max": lambda values, weights: max(values),
    "mean": _mean,
    "slack": lambda values, weights: max(values) - _mean(values, weights),
    "hash_unordered": lambda values, weights: float(sum(map(int, values)) % _HASH_SIZE),
}

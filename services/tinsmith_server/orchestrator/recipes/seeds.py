"""Seeds: everything random in a run comes from its seed and a place in it, never from time or order of arrival.

    seed(parts) = first 8 bytes, big-endian, of SHA-256("tinsmith/1|" + parts joined by "|"), shifted right by one bit

which is never negative, so that numpy takes it too. A rollout's prompt of group g in step s is sampled with
seed(run seed, "sample", s, g); its answer i draws from (that seed, i), as the sampler's contract says. Episodes use
"episode", the order of the problems "problems", the adapter's first values "adapter", evaluations "evaluation".
"""

from collections.abc import Sequence
from hashlib import sha256


def derived_seed(run_seed: int, *parts: int | str) -> int:
    """The seed of one place in a run, in [0, 2^63)."""
    text = "|".join(("tinsmith/1", *map(str, (run_seed, *parts))))
    return int.from_bytes(sha256(text.encode()).digest()[:8], "big") >> 1


def group_seeds(run_seed: int, purpose: str, step: int, groups: int) -> Sequence[int]:
    """The seeds of the groups of a step."""
    return [derived_seed(run_seed, purpose, step, group) for group in range(groups)]

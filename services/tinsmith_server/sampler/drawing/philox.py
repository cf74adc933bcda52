"""Counter-based uniform numbers: the noise of token t of answer i is a function of (seed, i, t) and nothing else.

Philox4x32-10 of Salmon et al. 2011, "Parallel Random Numbers: As Easy as 1, 2, 3". The seed is the key; the counter is
(t // 2, 0, i, 0), and each block of four words gives two tokens 53 random bits each. So neither the batch an
answer is decoded in, nor its neighbours, nor the token limit can change what it draws.
"""

import numpy as np
from numpy.typing import NDArray

UInts = NDArray[np.uint64]

_LOW = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)
_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (np.uint64(0x9E3779B9), np.uint64(0xBB67AE85))
_ROUNDS = 10


def philox4x32(counter: tuple[UInts, UInts, UInts, UInts], key: tuple[UInts, UInts]) -> tuple[UInts, ...]:
    """Four words of 32 random bits (held in uint64) for each counter; all arrays broadcast together."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        p0, p1 = _MULTIPLIERS[0] * c0, _MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (p1 >> _SHIFT) ^ c1 ^ k0, p1 & _LOW, (p0 >> _SHIFT) ^ c3 ^ k1, p0 & _LOW
        k0, k1 = (k0 + _WEYL[0]) & _LOW, (k1 + _WEYL[1]) & _LOW
    return c0, c1, c2, c3


def uniforms(
    seeds_B: NDArray[np.int64], members_B: NDArray[np.int64], start: int | NDArray[np.int64], count: int
) -> NDArray[np.float64]:
    """float64 [B, count] in [0, 1): column j belongs to token start + j.

    `start`, one for all rows or int64 [B], and `count` are even.
    """
    key = seeds_B.astype(np.uint64)[:, None]
    blocks = (np.asarray(start, np.int64).reshape(-1, 1) // 2 + np.arange(count // 2)).astype(np.uint64)
    zero = np.zeros((1, 1), np.uint64)
    members = members_B.astype(np.uint64)[:, None]
    words = philox4x32((blocks, zero, members, zero), (key & _LOW, key >> _SHIFT))
    pairs = np.stack([(words[0] << _SHIFT) | words[1], (words[2] << _SHIFT) | words[3]], axis=-1)
    return (pairs >> np.uint64(11)).reshape(len(seeds_B), count).astype(np.float64) * 2.0**-53

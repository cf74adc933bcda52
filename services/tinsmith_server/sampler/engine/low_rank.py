"""An adapter laid out for decoding: one pair of factors beside each fused matrix of the model.

A pair's inner size K is padded with zeros to a multiple of 8, at least 16, and to the largest of a batch when adapters
of different ranks meet there. Zeros at the end of an inner product leave its bits as they are (`calibration.py`
verifies it), so an adapter computes the same alone and beside one of higher rank.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from tinsmith_server.sampler.engine.linear import Lora

LEAST_INNER = 16
_INNER_QUANTUM = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Factors:
    """x -> x A B."""

    a_IK: Tensor
    """[in, K]."""
    b_KO: Tensor
    """[K, out], scale included."""

    @property
    def nbytes(self) -> int:
        return self.a_IK.nbytes + self.b_KO.nbytes

    def padded(self, inner: int) -> "Factors":
        """The same term with inner size `inner`."""
        lacking = inner - self.a_IK.shape[1]
        if not lacking:
            return self
        return Factors(a_IK=F.pad(self.a_IK, (0, lacking)), b_KO=F.pad(self.b_KO, (0, 0, 0, lacking)))


def factors_of(parts: Sequence[Lora | None], sizes: Sequence[int], like: Tensor) -> Factors | None:
    """The factors beside a fused matrix whose parts have `sizes` outputs; None where no part is adapted.

    The As stand side by side; each B fills its own rows and columns. Type and device are those of `like`.
    """
    present = [lora for lora in parts if lora is not None]
    if not present:
        return None
    inner = sum(len(lora.a_RI) for lora in present)
    a_IK = torch.cat([lora.a_RI for lora in present]).T
    b_KO = a_IK.new_zeros(inner, sum(sizes))
    row = column = 0
    for lora, size in zip(parts, sizes, strict=True):
        if lora is not None:
            b_KO[row : row + len(lora.a_RI), column : column + size] = lora.b_OR.T
            row += len(lora.a_RI)
        column += size
    placed = Factors(a_IK=a_IK.to(like).contiguous(), b_KO=b_KO.to(like))
    return placed.padded(max(LEAST_INNER, inner + -inner % _INNER_QUANTUM))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LowRank:
    """All factors of one adapter."""

    sites: tuple[Factors | None, ...]
    """One entry a fused matrix, in the order of `decoder.Site`; None where the base is left as it is."""

    @property
    def nbytes(self) -> int:
        """Memory of the adapter."""
        return sum(site.nbytes for site in self.sites if site is not None)

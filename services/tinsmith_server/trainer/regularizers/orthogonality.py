"""How far from orthogonal the rows of a datum's matrix X are, with G = X X^T: sum_{i != j} G_ij^2 (soft), |G - I|^2
(hard), or (tr G - n)^2 + the soft one (spectral)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize
from torch.utils.checkpoint import checkpoint

from tinsmith_server.trainer.regularizers.base import Seen, read_as
from tinsmith_server.trainer.regularizers.settings import number, word

MOST_ROWS = 8192
"""Of G: 256 MB of float32."""
MOST_PAIRS = 1 << 28
"""Of rows, in the G of all data of a call."""
_FEW_ROWS = 64
"""A G of more is computed anew for the gradient: those of all data together may be larger than the memory."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Orthogonality:
    """See the formulas above."""

    kind: ClassVar[str] = "orthogonality"
    over_vocabulary: ClassVar[bool] = True
    of_distributions: ClassVar[bool | None] = True
    compares: ClassVar[bool] = False

    mode: str = word("soft", "hard", "spectral")
    axis: str = word("sequence", "vocabulary")
    """What a row is: a token's logprobs, or one outcome's over the tokens."""
    normalize: float = number(1.0, low=0.0, high=1.0)
    of: str = word("logprobs", "probs")

    def __call__(self, seen: Seen) -> Tensor:
        parts = torch.split(read_as(seen.x, self.of), seen.lengths_S.tolist())
        return torch.stack([self._of_datum(x_TV) for x_TV in parts])

    def _of_datum(self, x_TV: Tensor) -> Tensor:
        rows = x_TV if self.axis == "sequence" else x_TV.T
        if len(rows) <= _FEW_ROWS:
            return self._of_rows(rows)
        found: Tensor = checkpoint(self._of_rows, rows, use_reentrant=False, preserve_rng_state=False)
        return found

    def _of_rows(self, rows: Tensor) -> Tensor:
        if self.normalize:
            rows = normalize(rows, dim=-1)
        gram = rows @ rows.T
        diagonal = gram.diagonal()
        soft = (gram - diagonal.diag()).square().sum()
        match self.mode:
            case "soft":
                return soft
            case "hard":
                return soft + (diagonal - 1).square().sum()
            case _:
                return soft + (diagonal.sum() - len(rows)).square()

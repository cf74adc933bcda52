"""Regularizers of every kind, and the data that they are tried on without a model."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from tinsmith.trainer.v1 import Regularizer as Message
from tinsmith.trainer.v1 import RegularizerKind
from tinsmith_server.trainer.local.causal import Outputs
from tinsmith_server.trainer.losses.base import SEQUENCES, TARGETS
from tinsmith_server.trainer.regularizers import REGULARIZERS, Term, made

VOCABULARY = 7
TOKENS, TOP_K, FULL = "tokens", "top-k", "vocabulary"
"""What a regularizer reads: [T], [T, K] or [T, V]."""

PLAIN: list[tuple[str, dict[str, float], dict[str, str]]] = [
    ("l1", {}, {}),
    ("l1", {"lambda": 0.3}, {"of": "probs", "reduction": "mean"}),
    ("l2", {}, {}),
    ("l2", {"center": -4.0, "clip": 2.5}, {"reduction": "mean"}),
    ("l2", {"lambda": 2.0}, {"around": "mean", "of": "probs"}),
    ("elastic_net", {"l1_ratio": 0.3, "lambda": 0.5}, {}),
    ("consistency", {}, {}),
    ("consistency", {}, {"metric": "l1"}),
    ("consistency", {}, {"metric": "cosine"}),
    ("output_magnitude", {"target_norm": 2.0}, {}),
    ("output_magnitude", {}, {"of": "probs"}),
]
OF_TOKENS: list[tuple[str, dict[str, float], dict[str, str]]] = [
    ("kl", {}, {}),
    ("kl", {}, {"estimator": "k1"}),
    ("kl", {}, {"estimator": "k2", "direction": "reverse"}),
    ("kl", {}, {"estimator": "k3", "direction": "reverse", "reduction": "mean"}),
    ("gradient_penalty", {"target_norm": 0.5}, {}),
    ("gradient_penalty", {"seed": 5.0}, {"at": "interpolated"}),
]
OF_DISTRIBUTIONS: list[tuple[str, dict[str, float], dict[str, str]]] = [
    ("entropy", {}, {}),
    ("entropy", {"temperature": 0.5, "normalize": 1.0}, {"mode": "minimize", "reduction": "mean"}),
    ("kl", {}, {}),
    ("kl", {}, {"direction": "reverse"}),
    ("kl", {}, {"direction": "symmetric", "reduction": "mean"}),
    ("js", {}, {}),
    ("consistency", {}, {"metric": "kl"}),
    ("orthogonality", {}, {}),
    ("orthogonality", {"normalize": 0.0}, {"mode": "hard", "of": "probs"}),
    ("orthogonality", {}, {"mode": "spectral", "axis": "vocabulary"}),
]
CASES = [
    *((TOKENS, *each) for each in PLAIN + OF_TOKENS),
    *((over, *each) for over in (TOP_K, FULL) for each in PLAIN + OF_DISTRIBUTIONS),
]


def term(over: str, kind: str, options: Mapping[str, float], choices: Mapping[str, str], **fields: Any) -> Term:
    """A term named "r" with weight 1, which reads the column "reference" where it needs one."""
    regularizer = made(REGULARIZERS[kind], "r", options, choices)
    reference = "reference" if regularizer.compares else ""
    return Term(
        **{
            "name": "r",
            "weight": 1.0,
            "regularizer": regularizer,
            "over_vocabulary": over == FULL,
            "reference": reference,
            **fields,
        }
    )


def message(over: str, kind: str, options: Mapping[str, float], choices: Mapping[str, str], **fields: Any) -> Message:
    """The same on the wire."""
    compares = made(REGULARIZERS[kind], "r", options, choices).compares
    where = {"over": "vocabulary"} if over == FULL else {}
    return Message(
        **{
            "name": "r",
            "kind": RegularizerKind.Value(f"REGULARIZER_KIND_{kind.upper()}"),
            "weight": 1.0,
            "options": options,
            "choices": {**choices, **where},
            "reference": "reference" if compares else "",
            **fields,
        }
    )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Data:
    """Logprobs of some data and the columns beside them, float64."""

    x: Tensor
    columns: Mapping[str, Tensor]
    over: str

    @classmethod
    def random(cls, over: str, *, seed: int = 0, lengths: tuple[int, ...] = (3, 1, 5)) -> "Data":
        chance = torch.Generator().manual_seed(seed)
        shape = {TOKENS: (sum(lengths),), TOP_K: (sum(lengths), 4), FULL: (sum(lengths), VOCABULARY)}[over]
        x, reference = (torch.randn(shape, generator=chance, dtype=torch.float64) - 1.5 for _ in range(2))
        if over == FULL:
            x, reference = x.log_softmax(-1), reference.log_softmax(-1)
        columns = {
            "reference": reference,
            "mask": (torch.arange(sum(lengths)) % 3 != 1).double(),
            TARGETS: torch.zeros(shape if over == TOP_K else shape[:1], dtype=torch.int64),
            SEQUENCES: torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths)),
        }
        return cls(x=x, columns=columns, over=over)

    def value(self, chosen: Term, x: Tensor | None = None) -> Tensor:
        """The term's value; the loss that a gradient penalty reads is sum exp(p / 2)."""
        given = self.x if x is None else x
        targets = given[:, 0] if self.over == FULL else given
        outputs = Outputs(logprobs=targets, distributions=given if self.over == FULL else None)
        value = chosen.value(outputs, self.columns, lambda p: (p / 2).exp().sum())
        return value if given.requires_grad else value.detach()

    def data(self, numbers: list[int]) -> "Data":
        """Some of the data, in this order."""
        places = torch.cat([(self.columns[SEQUENCES] == number).nonzero()[:, 0] for number in numbers])
        chosen = {name: column[places] for name, column in self.columns.items()}
        _, lengths = torch.unique_consecutive(chosen[SEQUENCES], return_counts=True)
        chosen[SEQUENCES] = torch.arange(len(numbers)).repeat_interleave(lengths)
        return replace(self, x=self.x[places], columns=chosen)

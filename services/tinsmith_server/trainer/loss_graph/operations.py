"""The operations that a loss graph may have: a table of functions of torch, by the names of the contract. Nothing that
is not in it can be asked for, and no name is looked up anywhere else."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from tinsmith_server.trainer.loss_graph.levels import (
    Level,
    Rule,
    aligned,
    combined,
    first_extremes,
    gathered,
    reduced,
    to_scalar,
)
from tinsmith_server.trainer.losses.segments import segment_cumsum, segment_sum, spread


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Given:
    """What an operation computes with."""

    values: Sequence[Tensor]
    """Of its arguments, in order."""
    options: Mapping[str, float]
    lengths_S: Tensor
    """Tokens of each datum, int64."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Operation:
    """One entry of the list."""

    arity: int
    level: Rule
    compute: Callable[[Given], Tensor]
    options: frozenset[str] = frozenset()
    needed: frozenset[str] = frozenset()
    """Options of which one at least must be there."""


SOURCES = ("logprobs", "input", "input_by_datum", "constant")
"""Operations without arguments, which `Graph` reads itself."""


def _pointwise(arity: int, function: Callable[..., Tensor]) -> Operation:
    return Operation(arity=arity, level=combined, compute=lambda given: function(*aligned(given.values)))


def _one(level: Rule, function: Callable[[Tensor], Tensor]) -> Operation:
    return Operation(arity=1, level=level, compute=lambda given: function(given.values[0]))


def _by_datum(function: Callable[[Tensor, Tensor], Tensor]) -> Operation:
    return Operation(
        arity=1,
        level=reduced(Level.TOKEN, Level.DATUM),
        compute=lambda given: function(given.values[0], given.lengths_S),
    )


def _compared(function: Callable[[Tensor, Tensor], Tensor]) -> Operation:
    def compare(a: Tensor, b: Tensor) -> Tensor:
        return function(a, b).to(torch.promote_types(a.dtype, b.dtype))

    return _pointwise(2, compare)


def _clamp(given: Given) -> Tensor:
    return given.values[0].clamp(given.options.get("min"), given.options.get("max"))


def _cumulative(given: Given) -> Tensor:
    return segment_cumsum(given.values[0], given.lengths_S, backward=bool(given.options.get("reverse")))


_OVER_TARGETS = reduced(Level.TARGETS, Level.TOKEN)
_SAME_TARGETS = reduced(Level.TARGETS, Level.TARGETS)

OPERATIONS: Mapping[str, Operation] = {
    "add": _pointwise(2, torch.add),
    "sub": _pointwise(2, torch.sub),
    "mul": _pointwise(2, torch.mul),
    "div": _pointwise(2, torch.div),
    "minimum": _pointwise(2, torch.minimum),
    "maximum": _pointwise(2, torch.maximum),
    "lt": _compared(torch.lt),
    "le": _compared(torch.le),
    "gt": _compared(torch.gt),
    "ge": _compared(torch.ge),
    "eq": _compared(torch.eq),
    "ne": _compared(torch.ne),
    "where": _pointwise(3, lambda condition, yes, no: torch.where(condition != 0, yes, no)),
    "neg": _pointwise(1, torch.neg),
    "abs": _pointwise(1, torch.abs),
    "square": _pointwise(1, torch.square),
    "sqrt": _pointwise(1, torch.sqrt),
    "exp": _pointwise(1, torch.exp),
    "expm1": _pointwise(1, torch.expm1),
    "log": _pointwise(1, torch.log),
    "log1p": _pointwise(1, torch.log1p),
    "sigmoid": _pointwise(1, torch.sigmoid),
    "log_sigmoid": _pointwise(1, F.logsigmoid),
    "softplus": _pointwise(1, F.softplus),
    "tanh": _pointwise(1, torch.tanh),
    "relu": _pointwise(1, torch.relu),
    "detach": _pointwise(1, torch.detach),
    "pow": Operation(
        arity=1,
        level=combined,
        compute=lambda given: given.values[0].pow(given.options["exponent"]),
        options=frozenset({"exponent"}),
        needed=frozenset({"exponent"}),
    ),
    "clamp": Operation(
        arity=1,
        level=combined,
        compute=_clamp,
        options=frozenset({"min", "max"}),
        needed=frozenset({"min", "max"}),
    ),
    "sum_over_targets": _one(_OVER_TARGETS, lambda x: x.sum(dim=1)),
    "mean_over_targets": _one(_OVER_TARGETS, lambda x: x.mean(dim=1)),
    "max_over_targets": _one(_OVER_TARGETS, lambda x: x.amax(dim=1)),
    "logsumexp": _one(_OVER_TARGETS, lambda x: x.logsumexp(dim=1)),
    "softmax": _one(_SAME_TARGETS, lambda x: x.softmax(dim=1)),
    "log_softmax": _one(_SAME_TARGETS, lambda x: x.log_softmax(dim=1)),
    "sum_by_datum": _by_datum(segment_sum),
    "mean_by_datum": _by_datum(lambda x, lengths_S: segment_sum(x, lengths_S) / lengths_S),
    "min_by_datum": _by_datum(lambda x, lengths_S: first_extremes(x, lengths_S, "min")),
    "max_by_datum": _by_datum(lambda x, lengths_S: first_extremes(x, lengths_S, "max")),
    "cumsum_by_datum": Operation(
        arity=1, level=reduced(Level.TOKEN, Level.TOKEN), compute=_cumulative, options=frozenset({"reverse"})
    ),
    "to_tokens": Operation(
        arity=1,
        level=reduced(Level.DATUM, Level.TOKEN),
        compute=lambda given: spread(given.values[0], given.lengths_S),
    ),
    "gather_data": Operation(
        arity=2, level=gathered, compute=lambda given: given.values[0][given.values[1].round().long()]
    ),
    "sum": _one(to_scalar, torch.sum),
    "mean": _one(to_scalar, torch.mean),
    "min": _one(to_scalar, torch.min),
    "max": _one(to_scalar, torch.max),
}

"""Losses and regularizers of the contract as the domain has them, and reports back."""

import math

from google.protobuf.message import Message

from tinsmith.arrays import array
from tinsmith.trainer.v1 import loss_pb2 as pb
from tinsmith_server.serving.errors import InvalidArgument
from tinsmith_server.trainer.loss_graph import CustomLoss, Graph, Node, bad_node, check_metrics
from tinsmith_server.trainer.losses import LOSSES, Cispo, CrossEntropy, Dro, Gspo, ImportanceSampling, Loss, Ppo
from tinsmith_server.trainer.objective import TermReport
from tinsmith_server.trainer.regularizers import LARGEST, REGULARIZERS, Term, bad, made

_OVER = ("targets", "vocabulary")
_ENUM_PREFIX = "REGULARIZER_KIND_"


def loss(message: pb.LossSpec) -> Loss:
    """The loss itself.

    InvalidArgument with reason UNKNOWN_LOSS, and OPERATION_NOT_ALLOWED or BAD_LOSS_GRAPH for a graph that can't be
    computed.
    """
    match message.WhichOneof("loss"):
        case "cross_entropy":
            return CrossEntropy()
        case "importance_sampling":
            return ImportanceSampling()
        case "ppo":
            return Ppo(**_options(message.ppo))
        case "cispo":
            return _with_room(Cispo(**_options(message.cispo)))
        case "dro":
            return Dro(**_options(message.dro))
        case "gspo":
            return _with_room(Gspo(**_options(message.gspo)))
        case "custom":
            return _custom(message.custom)
        case _:
            names = ", ".join(LOSSES)
            raise InvalidArgument(
                f"the request has no loss that is known here; there are {names}",
                reason="UNKNOWN_LOSS",
                metadata={"losses": names},
                violations=[("loss", f"must be one of {names}")],
            )


def terms(message: pb.LossSpec) -> tuple[Term, ...]:
    """The regularizers, in order. InvalidArgument with reason BAD_REGULARIZER."""
    names: set[str] = set()
    for each in message.regularizers:
        if each.name in names:
            raise bad(each.name, "is there twice")
        names.add(each.name)
    return tuple(map(_term, message.regularizers))


def report(term: TermReport) -> pb.RegularizerReport:
    """What a regularizer contributed as a message."""
    return pb.RegularizerReport(
        name=term.name,
        value=term.value,
        contribution=term.weight * term.value,
        logprob_grad_norm=term.logprob_grad_norm,
        parameter_grad_norm=term.parameter_grad_norm,
        weight=term.weight,
    )


def _options(message: Message) -> dict[str, float]:
    """The options that a loss was given; what is absent has the loss's default, which is that of the contract. No ratio
    reaches what float32 does not have, so a bound beyond is one at its end."""
    return {field.name: min(value, LARGEST) for field, value in message.ListFields()}


def _with_room(loss: Cispo | Gspo) -> Cispo | Gspo:
    """The loss. InvalidArgument with reason INVALID_REQUEST for bounds that leave no room between them."""
    if loss.clip_low > loss.clip_high:
        raise InvalidArgument(
            f"clip_low of {loss.name} is {loss.clip_low}, above its clip_high, {loss.clip_high}",
            reason="INVALID_REQUEST",
            violations=[(f"loss.{loss.name}.clip_low", "must be at most clip_high")],
        )
    return loss


def _custom(message: pb.CustomLoss) -> CustomLoss:
    graph = Graph.checked([_node(node) for node in message.nodes], message.result)
    metrics = dict(message.metrics)
    check_metrics(graph, metrics)
    return CustomLoss(graph=graph, reductions=metrics)


def _node(message: pb.LossNode) -> Node:
    return Node(
        name=message.name,
        operation=message.operation,
        arguments=tuple(message.arguments),
        options=dict(message.options),
        constant=_constant(message) if message.HasField("constant") else None,
        column=message.column,
    )


def _constant(message: pb.LossNode) -> float:
    try:
        values = array(message.constant)
    except ValueError as error:
        raise bad_node(message.name, f"is no constant: {error}") from error
    if values.size != 1:
        raise bad_node(message.name, f"is a constant of {values.size} elements; it must have one")
    return float(values.item())


def _term(message: pb.Regularizer) -> Term:
    kind = REGULARIZERS[pb.RegularizerKind.Name(message.kind).removeprefix(_ENUM_PREFIX).lower()]
    choices = dict(message.choices)
    over, mask = choices.pop("over", _OVER[0]), choices.pop("mask", "")
    if over not in _OVER:
        raise bad(message.name, f"has the choice over {over!r}; it is one of {', '.join(_OVER)}", "over")
    options = dict(message.options)
    for name, value in options.items():
        if not math.isfinite(value):
            raise bad(message.name, f"has the option {name} {value}, which is not finite", name)
    if message.weight > LARGEST:
        raise bad(message.name, f"has the weight {message.weight}; it must be at most {LARGEST:g}", "weight")
    regularizer = made(kind, message.name, options, choices)
    if over == "vocabulary" and not regularizer.over_vocabulary:
        raise bad(message.name, f"({regularizer.kind}) does not read the distribution over the vocabulary", "over")
    if regularizer.compares != bool(message.reference):
        wanted = "needs a reference" if regularizer.compares else "has a reference, which it does not read"
        raise bad(message.name, f"({regularizer.kind}) {wanted}", "reference")
    return Term(
        name=message.name,
        weight=message.weight,
        regularizer=regularizer,
        over_vocabulary=over == "vocabulary",
        mask=mask,
        reference=message.reference,
    )

"""The contract's losses, and DPO, written as graphs for `CustomLoss`."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tinsmith.arrays import tensor
from tinsmith.trainer.v1 import CustomLoss, LossNode, LossSpec
from tinsmith_server.trainer import wire_loss
from tinsmith_server.trainer.loss_graph import CustomLoss as Loss
from tinsmith_server.trainer.losses.base import TARGETS
from tinsmith_server.trainer.ragged import Ragged


class Writer:
    """Writes nodes; each method gives the name of the node that it wrote."""

    def __init__(self) -> None:
        self.nodes: list[LossNode] = []

    def node(self, operation: str, *arguments: str, column: str = "", **options: float) -> str:
        name = f"n{len(self.nodes)}"
        self.nodes.append(LossNode(name=name, operation=operation, arguments=arguments, column=column, options=options))
        return name

    def constant(self, value: float) -> str:
        name = self.node("constant")
        self.nodes[-1].constant.CopyFrom(tensor(np.float32(value)))
        return name

    def input(self, column: str) -> str:
        return self.node("input", column=column)

    def input_by_datum(self, column: str) -> str:
        return self.node("input_by_datum", column=column)

    def message(self, metrics: Mapping[str, str] | None = None) -> CustomLoss:
        return CustomLoss(nodes=self.nodes, metrics=metrics or {})

    def negated_sum(self, value: str) -> CustomLoss:
        self.node("neg", self.node("sum", value))
        return self.message()


def loss_of(graph: CustomLoss) -> Loss:
    """The graph as the trainer computes it."""
    made = wire_loss.loss(LossSpec(custom=graph))
    assert isinstance(made, Loss)
    return made


def cross_entropy() -> CustomLoss:
    w = Writer()
    return w.negated_sum(w.node("mul", w.input("weights"), w.node("logprobs")))


def _change(w: Writer) -> tuple[str, str, str]:
    """p, p - q and A."""
    p = w.node("logprobs")
    return p, w.node("sub", p, w.input("logprobs")), w.input("advantages")


def importance_sampling() -> CustomLoss:
    w = Writer()
    _, change, advantages = _change(w)
    return w.negated_sum(w.node("mul", w.node("exp", change), advantages))


def ppo(clip_low: float, clip_high: float) -> CustomLoss:
    w = Writer()
    _, change, advantages = _change(w)
    return w.negated_sum(_clipped(w, w.node("exp", change), advantages, clip_low, clip_high))


def cispo(clip_low: float, clip_high: float) -> CustomLoss:
    w = Writer()
    p, change, advantages = _change(w)
    ratio = w.node("detach", w.node("clamp", w.node("exp", change), min=clip_low, max=clip_high))
    return w.negated_sum(w.node("mul", w.node("mul", ratio, p), advantages))


def dro(beta: float) -> CustomLoss:
    w = Writer()
    p, change, advantages = _change(w)
    zero = w.constant(0)
    sampled = w.node("maximum", w.node("ne", advantages, zero), w.node("ne", w.input("logprobs"), zero))
    penalty = w.node("mul", w.constant(beta / 2), w.node("square", w.node("mul", sampled, change)))
    return w.negated_sum(w.node("sub", w.node("mul", p, advantages), penalty))


def gspo(clip_low: float, clip_high: float) -> CustomLoss:
    w = Writer()
    _, change, advantages = _change(w)
    counted = w.node("ne", advantages, w.constant(0))
    length = w.node("maximum", w.node("sum_by_datum", counted), w.constant(1))
    mean = w.node("div", w.node("sum_by_datum", w.node("mul", change, counted)), length)
    ratio = w.node("to_tokens", w.node("exp", mean))
    return w.negated_sum(_clipped(w, ratio, advantages, clip_low, clip_high))


def dpo(beta: float) -> CustomLoss:
    """Mean over pairs of -log sigmoid(beta (change of the chosen - change of the rejected)); the columns are weights,
    the reference's logprobs, and by datum whether it is chosen and where its partner is."""
    w = Writer()
    change = w.node("sub", w.node("logprobs"), w.input("reference"))
    change_D = w.node("sum_by_datum", w.node("mul", change, w.input("weights")))
    chosen_D = w.input_by_datum("is_chosen")
    margin_D = w.node("sub", change_D, w.node("gather_data", change_D, w.input_by_datum("partner")))
    loss_D = w.node("mul", chosen_D, w.node("log_sigmoid", w.node("mul", w.constant(beta), margin_D)))
    right_D = w.node("mul", chosen_D, w.node("gt", margin_D, w.constant(0)))
    pairs = w.node("sum", chosen_D)
    accuracy = w.node("div", w.node("sum", right_D), pairs)
    w.node("neg", w.node("div", w.node("sum", loss_D), pairs))
    return w.message({"accuracy:mean": accuracy, "margin:max": margin_D})


def _clipped(w: Writer, ratio: str, advantages: str, clip_low: float, clip_high: float) -> str:
    clipped = w.node("clamp", ratio, min=clip_low, max=clip_high)
    return w.node("minimum", w.node("mul", ratio, advantages), w.node("mul", clipped, advantages))


def builtin(name: str, **settings: Any) -> CustomLoss:
    """A loss of the contract by its name."""
    made: CustomLoss = {
        "cross_entropy": cross_entropy,
        "importance_sampling": importance_sampling,
        "ppo": ppo,
        "cispo": cispo,
        "dro": dro,
        "gspo": gspo,
    }[name](**settings)
    return made


LENGTHS = [2, 1, 3]
"""Of the data that graphs are tried on."""


def sequences() -> Tensor:
    """The number of each token's datum."""
    return torch.arange(3).repeat_interleave(torch.tensor(LENGTHS))


def checked(graph: CustomLoss, columns: Mapping[str, Any], targets: tuple[int, ...] = (6,)) -> None:
    """Checks a graph as a call would, on three data with these columns."""
    offsets = np.array([0, 2, 3, 6])
    found = {
        name: Ragged(values=np.asarray(values), offsets=offsets if len(values) == 6 else np.arange(len(values) + 1))
        for name, values in {**columns, TARGETS: np.zeros(targets, np.int64)}.items()
    }
    loss_of(graph).check(found)

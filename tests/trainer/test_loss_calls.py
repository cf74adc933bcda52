"""The policy losses through the public client: options, defaults, columns."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from tests.trainer.calls import ROWS, batch, create, forward_backward
from tests.trainer.loss_cases import Case, by_loop
from tinsmith import TinsmithError
from tinsmith.aio import Suite
from tinsmith.arrays import ragged, rows
from tinsmith.trainer.v1 import CispoLoss, DroLoss, GspoLoss, LossSpec, PpoLoss
from tinsmith.types.v1 import Column
from tinsmith_server.trainer.losses import LOSSES, Cispo, Dro, Gspo, Loss, Ppo
from tinsmith_server.trainer.losses.base import SEQUENCES

ADVANTAGES = [[0.0, 0.0, 1.0, 1.0, 1.0], [0.0, -0.5, -0.5, -0.5], [2.0]]
SPECS: Mapping[str, tuple[LossSpec, Loss]] = {
    "ppo": (LossSpec(ppo=PpoLoss()), Ppo(clip_low=0.8, clip_high=1.2)),
    "cispo": (LossSpec(cispo=CispoLoss()), Cispo(clip_low=0.0, clip_high=4.0)),
    "cispo bounds": (
        LossSpec(cispo=CispoLoss(clip_low=0.9, clip_high=1.1)),
        Cispo(clip_low=0.9, clip_high=1.1),
    ),
    "dro": (LossSpec(dro=DroLoss()), Dro(beta=0.05)),
    "dro zero": (LossSpec(dro=DroLoss(beta=0)), Dro(beta=0.0)),
    "dro beta": (LossSpec(dro=DroLoss(beta=2.0)), Dro(beta=2.0)),
    "ppo without bound": (LossSpec(ppo=PpoLoss(clip_high=1e300)), Ppo(clip_low=0.8, clip_high=1e300)),
    "cispo without bound": (LossSpec(cispo=CispoLoss(clip_high=math.inf)), Cispo(clip_low=0.0, clip_high=math.inf)),
    "gspo": (LossSpec(gspo=GspoLoss()), Gspo(clip_low=0.9997, clip_high=1.0004)),
    "gspo low": (LossSpec(gspo=GspoLoss(clip_low=0.5)), Gspo(clip_low=0.5, clip_high=1.0004)),
    "gspo high": (LossSpec(gspo=GspoLoss(clip_high=9)), Gspo(clip_low=0.9997, clip_high=9.0)),
}


def policy_batch(q: list[list[float]]) -> dict[str, Any]:
    return {
        "weights": None,
        "logprobs": Column(ragged=ragged(q, np.float32)),
        "advantages": Column(ragged=ragged(ADVANTAGES, np.float32)),
    }


@pytest.mark.parametrize("name", SPECS)
async def test_a_call_computes_the_formula_with_its_bounds_or_the_defaults(suite: Suite, name: str) -> None:
    """T-10"""
    spec, meant = SPECS[name]
    model = await create(suite)
    p = rows((await suite.trainer.ForwardBackward(forward_backward(model))).logprobs)
    # Ratios on both sides of all bounds.
    shifts = [[0.0, 0.0, 2.0, -0.5, 0.3], [0.0, 0.4, -0.5, -0.6], [1.0]]
    q = [
        [float(here - shift) if advantage else 0.0 for here, shift, advantage in zip(*row, strict=True)]
        for row in zip(p, shifts, ADVANTAGES, strict=True)
    ]
    answer = await suite.trainer.ForwardBackward(forward_backward(model, loss=spec, batch=batch(**policy_batch(q))))
    tokens = [
        [(float(a), float(a) - b, c) for a, b, c in zip(*row, strict=True)]
        for row in zip(p, q, ADVANTAGES, strict=True)
    ]
    assert answer.metrics["loss:sum"] == pytest.approx(by_loop(meant, Case.of(tokens)), rel=1e-5, abs=1e-5)
    assert answer.metrics["tokens:sum"] == 7.0


@pytest.mark.parametrize(
    "loss",
    [
        LossSpec(cispo=CispoLoss(clip_low=5)),
        LossSpec(gspo=GspoLoss(clip_low=1.5, clip_high=1.4)),
        LossSpec(dro=DroLoss(beta=-1)),
        LossSpec(gspo=GspoLoss(clip_high=0.9)),
        LossSpec(cispo=CispoLoss(clip_low=math.nan)),
        LossSpec(ppo=PpoLoss(clip_high=math.nan)),
    ],
    ids=str,
)
async def test_options_outside_their_range_are_refused(suite: Suite, loss: LossSpec) -> None:
    model = await create(suite)
    columns = policy_batch([[0.0] * len(row) for row in ROWS])
    with pytest.raises(TinsmithError) as refused:
        await suite.trainer.ForwardBackward(forward_backward(model, loss=loss, batch=batch(**columns)))
    assert refused.value.reason == "INVALID_REQUEST"
    assert refused.value.code.name == "INVALID_ARGUMENT"


@pytest.mark.parametrize("field", ["cispo", "dro", "gspo"])
@pytest.mark.parametrize("change", ["missing", "added"])
async def test_columns_are_checked(suite: Suite, field: str, change: str) -> None:
    """T-10"""
    model = await create(suite)
    columns = policy_batch([[0.0] * len(row) for row in ROWS])
    if change == "missing":
        columns["advantages"] = None
    else:
        columns[SEQUENCES] = Column(ragged=ragged(ROWS, np.int64))
    request = forward_backward(model, loss=LossSpec(**{field: {}}), batch=batch(**columns))
    with pytest.raises(TinsmithError) as refused:
        await suite.trainer.ForwardBackward(request)
    expected = {"missing": ("MISSING_LOSS_INPUT", "advantages"), "added": ("UNKNOWN_LOSS_INPUT", SEQUENCES)}
    assert (refused.value.reason, refused.value.metadata["column"]) == expected[change]


def test_unknown_losses_cannot_be_asked_for() -> None:
    """T-10: the contract's own names are the only ones."""
    assert set(LOSSES) == {field.name for field in LossSpec.DESCRIPTOR.oneofs_by_name["loss"].fields}
    with pytest.raises(ValueError, match="stable_reinforce"):
        LossSpec(**{"stable_reinforce": {}})


@pytest.mark.parametrize("sent", [b"", b"\x9a\x06\x00"], ids=["none", "one of a later contract"])
async def test_a_loss_that_is_not_known_is_refused_with_those_that_are(suite: Suite, sent: bytes) -> None:
    """T-10"""
    model = await create(suite)
    with pytest.raises(TinsmithError) as refused:
        await suite.trainer.ForwardBackward(forward_backward(model, loss=LossSpec.FromString(sent)))
    assert (refused.value.code.name, refused.value.reason) == ("INVALID_ARGUMENT", "UNKNOWN_LOSS")
    assert refused.value.metadata["losses"].split(", ") == list(LOSSES)

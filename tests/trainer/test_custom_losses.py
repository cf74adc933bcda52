"""Custom losses through the public client, in both forms: gradients of the client's own, and graphs."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support import serving
from tests.trainer.calls import ADAM, ROWS, batch, create, forward_backward, optim_step
from tests.trainer.graphs import Writer, dpo
from tests.trainer.models import batch as random_batch
from tests.trainer.models import trained
from tests.trainer.test_against_peft import assert_alike, gradients
from tests.trainer.test_oracle_matrix import FORMS, call, on_the_wire
from tinsmith import Suite as BlockingSuite
from tinsmith import TinsmithError
from tinsmith.aio import Suite
from tinsmith.arrays import ragged, rows
from tinsmith.custom_loss import forward_backward_custom, forward_backward_custom_async
from tinsmith.trainer.v1 import (
    CustomLoss,
    ForwardRequest,
    LossNode,
    LossSpec,
    SaveForSamplerRequest,
)
from tinsmith.types.v1 import Column
from tinsmith_server.trainer import ROOM
from tinsmith_server.trainer.losses import CrossEntropy

Array = Any


async def weights_sha256(suite: Suite, model: Any) -> str:
    """Of the adapter as it is now."""
    saved = await suite.trainer.SaveForSampler(SaveForSamplerRequest(model_id=model.model_id))
    return next(file.sha256 for file in saved.checkpoint.files if file.name == "adapter_model.safetensors")


def negative_log_likelihood(logprobs: Sequence[Array]) -> tuple[float, list[Array]]:
    return -sum(float(row.sum()) for row in logprobs), [-np.ones_like(row) for row in logprobs]


async def test_a_clients_cross_entropy_trains_as_the_builtin(suite: Suite) -> None:
    """T-08"""
    mine, theirs = await create(suite, "mine"), await create(suite, "theirs")
    for step in range(3):
        answer = await forward_backward_custom_async(
            suite, mine.model_id, batch(), negative_log_likelihood, seq_id=1 + 3 * step
        )
        expected = await suite.trainer.ForwardBackward(forward_backward(theirs))
        assert answer.metrics["loss:sum"] == pytest.approx(expected.metrics["loss:sum"], rel=1e-5)
        assert answer.metrics["surrogate_loss:sum"] == pytest.approx(expected.metrics["loss:sum"], rel=1e-5)
        assert answer.logprobs == expected.logprobs
        mine_step = await suite.trainer.OptimStep(optim_step(mine, 3 + 3 * step))
        theirs_step = await suite.trainer.OptimStep(optim_step(theirs))
        assert mine_step.metrics["grad_norm:mean"] == pytest.approx(theirs_step.metrics["grad_norm:mean"], rel=1e-5)
    assert await weights_sha256(suite, mine) == await weights_sha256(suite, theirs)


async def test_a_clients_own_loss_is_the_graph_of_it(suite: Suite) -> None:
    """T-08, T-09: sum p^2 / 2 over K targets, by the client and by the server."""
    w = Writer()
    w.node("mul", w.constant(0.5), w.node("sum", w.node("square", w.node("logprobs"))))
    targets = Column(ragged=ragged([np.arange(2 * len(row)).reshape(-1, 2) for row in ROWS], np.int64))
    data = batch(target_tokens=targets, weights=None)

    def half_square(logprobs: Sequence[Array]) -> tuple[float, list[Array]]:
        return sum(float((row.astype(np.float64) ** 2).sum()) / 2 for row in logprobs), list(logprobs)

    mine, theirs = await create(suite, "mine"), await create(suite, "theirs")
    answer = await forward_backward_custom_async(suite, mine.model_id, data, half_square)
    expected = await suite.trainer.ForwardBackward(
        forward_backward(theirs, loss=LossSpec(custom=w.message()), batch=data)
    )
    assert answer.metrics["loss:sum"] == pytest.approx(expected.metrics["loss:sum"], rel=1e-6)
    assert rows(answer.logprobs)[0].shape == (5, 2)
    norms = [(await suite.trainer.OptimStep(optim_step(model))).metrics["grad_norm:mean"] for model in (mine, theirs)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-5)


async def test_the_blocking_client_does_the_same(suite: Suite) -> None:
    """T-08"""
    model = await create(suite)
    expected = await suite.trainer.Forward(
        ForwardRequest(model_id=model.model_id, loss=LossSpec(cross_entropy={}), batch=batch())
    )

    def run() -> float:
        with BlockingSuite.connect(trainer=suite.addresses.trainer) as blocking:
            answer = forward_backward_custom(blocking, model.model_id, batch(), negative_log_likelihood)
            return answer.metrics["loss:sum"]

    assert await asyncio.to_thread(run) == pytest.approx(expected.metrics["loss:sum"], rel=1e-5)


@pytest.mark.parametrize(
    ("gradients_of", "what"),
    [
        (lambda logprobs: logprobs[:2], "one gradient a datum"),
        (lambda logprobs: [row[:1] for row in logprobs], "of the shape"),
        (lambda logprobs: [row * np.nan for row in logprobs], "not finite"),
    ],
)
async def test_gradients_that_are_none_are_not_sent(suite: Suite, gradients_of: Any, what: str) -> None:
    model = await create(suite)
    with pytest.raises(ValueError, match=what):
        await forward_backward_custom_async(suite, model.model_id, batch(), lambda p: (0.0, gradients_of(p)))
    with pytest.raises(TinsmithError) as nothing:
        await suite.trainer.OptimStep(optim_step(model))
    assert nothing.value.reason == "NO_GRADIENTS"


@pytest.mark.parametrize("column", [None, Column(sparse={})], ids=["absent", "sparse"])
async def test_a_batch_without_dense_targets_is_refused_and_stays_as_it_is(suite: Suite, column: Column | None) -> None:
    given = batch()
    del given.loss_inputs["target_tokens"]
    if column is not None:
        given.loss_inputs["target_tokens"].CopyFrom(column)
    before = given.SerializeToString(deterministic=True)
    with pytest.raises(ValueError, match="ragged column 'target_tokens'"):
        await forward_backward_custom_async(suite, "any", given, negative_log_likelihood)
    assert given.SerializeToString(deterministic=True) == before


def mean_square() -> CustomLoss:
    w = Writer()
    w.node("square", w.node("mean", w.node("logprobs")))
    return w.message()


@pytest.mark.parametrize("micro_batch_tokens", [20, 1])
def test_a_loss_of_the_whole_call_is_the_same_in_micro_batches(micro_batch_tokens: int) -> None:
    """(mean p)^2 is no sum over data: its gradient needs all logprobs."""
    data = on_the_wire(random_batch(CrossEntropy()), FORMS[0])
    del data.loss_inputs["weights"]
    whole, cut = trained("qwen3"), trained("qwen3", micro_batch_tokens=micro_batch_tokens)
    expected, found = (
        model.forward_backward(call(LossSpec(custom=mean_square()), data, omit_logprobs=True)) for model in (whole, cut)
    )
    assert found.metrics == pytest.approx(expected.metrics, rel=1e-5)
    seen = cut.forward(call(LossSpec(custom=mean_square()), data))
    assert seen.metrics == pytest.approx(expected.metrics, rel=1e-5)
    assert max(float(value.abs().max()) for value in gradients(whole).values()) > 1e-3
    assert_alike(gradients(cut), gradients(whole))


async def test_dpo_learns_to_prefer(suite: Suite) -> None:
    """T-09: the loss starts at ln 2 and the margin grows."""
    model = await create(suite)
    pairs = [[1, 2, 3, 4], [1, 2, 5, 6], [7, 8, 9], [7, 8, 3]]
    request = ForwardRequest(model_id=model.model_id, loss=LossSpec(cross_entropy={}), batch=batch(pairs))
    reference = rows((await suite.trainer.Forward(request)).logprobs)
    columns = {
        "reference": Column(ragged=ragged(reference, np.float32)),
        "is_chosen": Column(ragged=ragged([[1], [0], [1], [0]], np.int64)),
        "partner": Column(ragged=ragged([[1], [0], [3], [2]], np.int64)),
    }
    call_ = forward_backward(model, loss=LossSpec(custom=dpo(beta=0.1)), batch=batch(pairs, **columns))
    found = []
    for _ in range(8):
        found.append((await suite.trainer.ForwardBackward(call_)).metrics)
        await suite.trainer.OptimStep(optim_step(model, adam=ADAM))
    assert found[0]["loss:sum"] == pytest.approx(0.693147, abs=1e-5)
    assert found[0]["accuracy:mean"] == 0.0
    assert found[-1]["loss:sum"] < found[0]["loss:sum"] - 0.01
    assert found[-1]["accuracy:mean"] == 1.0
    assert found[-1]["margin:max"] > 0


def bad_graph(nodes: list[LossNode], **fields: Any) -> LossSpec:
    return LossSpec(custom=CustomLoss(nodes=nodes, **fields))


P = LossNode(name="p", operation="logprobs")
HOSTILE: dict[str, tuple[LossSpec, dict[str, Any], str, str]] = {
    "shell": (bad_graph([P, LossNode(name="x", operation="os.system")]), {}, "OPERATION_NOT_ALLOWED", "x"),
    "eval": (bad_graph([P, LossNode(name="x", operation="eval", arguments=["p"])]), {}, "OPERATION_NOT_ALLOWED", "x"),
    "cycle": (
        bad_graph(
            [
                LossNode(name="a", operation="exp", arguments=["b"]),
                LossNode(name="b", operation="exp", arguments=["a"]),
            ]
        ),
        {},
        "BAD_LOSS_GRAPH",
        "a",
    ),
    "no scalar": (bad_graph([P]), {}, "BAD_LOSS_GRAPH", "p"),
    "no such column": (
        bad_graph(
            [
                LossNode(name="i", operation="input", column="secret"),
                LossNode(name="s", operation="sum", arguments=["i"]),
            ]
        ),
        {},
        "MISSING_LOSS_INPUT",
        "",
    ),
    "column nobody reads": (
        bad_graph([P, LossNode(name="s", operation="sum", arguments=["p"])]),
        {"advantages": Column(ragged=ragged([[1.0] * len(row) for row in ROWS], np.float32))},
        "UNKNOWN_LOSS_INPUT",
        "",
    ),
    "tokens for data": (
        bad_graph(
            [
                LossNode(name="i", operation="input_by_datum", column="d"),
                LossNode(name="s", operation="sum", arguments=["i"]),
            ]
        ),
        {"d": Column(ragged=ragged(ROWS, np.int64))},
        "BAD_TENSOR",
        "",
    ),
    "column of the trainer's own": (
        bad_graph(
            [
                LossNode(name="i", operation="input", column="sequences"),
                LossNode(name="s", operation="sum", arguments=["i"]),
            ]
        ),
        {"sequences": Column(ragged=ragged(ROWS, np.int64))},
        "UNKNOWN_LOSS_INPUT",
        "",
    ),
    "no nodes": (bad_graph([]), {}, "INVALID_REQUEST", ""),
    "too many nodes": (
        bad_graph([LossNode(name=f"n{number}", operation="logprobs") for number in range(4097)]),
        {},
        "INVALID_REQUEST",
        "",
    ),
    "metric without reduction": (
        bad_graph([P, LossNode(name="s", operation="sum", arguments=["p"])], metrics={"a": "p"}),
        {},
        "INVALID_REQUEST",
        "",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
async def test_bad_graphs_are_refused_and_leave_nothing(suite: Suite, case: str) -> None:
    """T-09"""
    loss, columns, reason, node = HOSTILE[case]
    model = await create(suite)
    with pytest.raises(TinsmithError) as refused:
        await suite.trainer.ForwardBackward(forward_backward(model, loss=loss, batch=batch(weights=None, **columns)))
    assert (refused.value.code.name, refused.value.reason) == ("INVALID_ARGUMENT", reason)
    assert refused.value.metadata.get("node", "") == node
    with pytest.raises(TinsmithError) as no_gradients:
        await suite.trainer.OptimStep(optim_step(model))
    assert no_gradients.value.reason == "NO_GRADIENTS"


async def test_a_graph_may_read_the_targets(suite: Suite) -> None:
    """-sum p over the targets above 3."""
    w = Writer()
    graph = w.negated_sum(w.node("mul", w.node("logprobs"), w.node("gt", w.input("target_tokens"), w.constant(3))))
    model = await create(suite)
    answer = await suite.trainer.ForwardBackward(
        forward_backward(model, loss=LossSpec(custom=graph), batch=batch(weights=None))
    )
    expected = -np.concatenate(rows(answer.logprobs))[np.concatenate(ROWS) + 1 > 3].sum()
    assert answer.metrics["loss:sum"] == pytest.approx(float(expected), rel=1e-5)


async def test_metrics_of_a_graph_are_reduced_over_the_call(tmp_path: Path, model_directory: Path) -> None:
    """However it is cut into micro-batches; by the suffix."""
    w = Writer()
    p = w.node("logprobs")
    w.node("sum", w.node("mul", p, w.input("weights")))
    graph = w.message({f"p:{suffix}": p for suffix in ("sum", "mean", "min", "max")})
    settings = {"base_models": (f"random={model_directory}",), "micro_batch_tokens": 4}
    async with serving(ROOM, tmp_path, **settings) as address, Suite.connect(trainer=address) as suite:
        model = await create(suite)
        answer = await suite.trainer.ForwardBackward(forward_backward(model, loss=LossSpec(custom=graph)))
    values = torch.from_numpy(np.concatenate(rows(answer.logprobs))).double()
    expected = {
        "loss:sum": values.sum(),
        "p:sum": values.sum(),
        "p:mean": values.mean(),
        "p:min": values.min(),
        "p:max": values.max(),
        "tokens:sum": torch.tensor(10.0),
    }
    assert dict(answer.metrics) == pytest.approx({name: float(value) for name, value in expected.items()}, rel=1e-6)

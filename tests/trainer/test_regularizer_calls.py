"""Regularizers through the public client: training with each, reports, and what is refused."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from tests.trainer.calls import ROWS, batch, create, forward_backward, optim_step
from tests.trainer.models import batch as random_batch
from tests.trainer.models import trained
from tests.trainer.regularizer_calls import VOCABULARY, columns, regularized, request_data, sparse_reference
from tests.trainer.regularizer_cases import CASES, FULL, TOKENS, TOP_K, message
from tests.trainer.test_custom_losses import mean_square, weights_sha256
from tests.trainer.test_oracle_matrix import FORMS, call, on_the_wire
from tinsmith.aio import Suite
from tinsmith.arrays import ragged
from tinsmith.metrics import merge_metrics
from tinsmith.trainer.v1 import AdamParams, ForwardRequest, ImportanceSamplingLoss
from tinsmith.types.v1 import Column, DatumBatch
from tinsmith_server.trainer.losses import CrossEntropy

POLICY = {"importance_sampling": ImportanceSamplingLoss()}


# The probabilities of the whole vocabulary add up to 1, whatever is trained.
CONSTANT = (FULL, "l1", {"lambda": 0.3}, {"of": "probs", "reduction": "mean"})


@pytest.mark.parametrize("case", [case for case in CASES if case != CONSTANT], ids=str)
async def test_five_steps_lower_the_penalty(suite: Suite, case: Any) -> None:
    """R-03: alone, beside a loss of weight 0, each kind falls."""
    over, kind, _, _ = case
    regularizer = message(*case, weight=1e3 if kind == "gradient_penalty" else 1.0)
    data = request_data(over, regularizer)
    if kind == "gradient_penalty":  # of a loss that is not linear
        spec = regularized(regularizer, **POLICY)
        data.loss_inputs["logprobs"].CopyFrom(Column(ragged=ragged([[-5.0] * len(row) for row in ROWS], np.float32)))
        data.loss_inputs["advantages"].CopyFrom(Column(ragged=ragged([[1e-2] * len(row) for row in ROWS], np.float32)))
        del data.loss_inputs["weights"]
    else:
        spec = regularized(regularizer)
        zeros = [np.zeros((len(row), 3) if over == TOP_K else len(row)) for row in ROWS]
        data.loss_inputs["weights"].CopyFrom(Column(ragged=ragged(zeros, np.float32)))
    model = await create(suite)
    values = []
    for _ in range(6):
        answer = await suite.trainer.ForwardBackward(forward_backward(model, loss=spec, batch=data))
        (report,) = answer.regularizers
        assert report.HasField("logprob_grad_norm")
        assert report.logprob_grad_norm > 0
        assert answer.metrics["loss:sum"] == pytest.approx(
            answer.metrics["base:sum"] + regularizer.weight * report.value, rel=1e-6, abs=1e-9
        )
        values.append(report.value)
        await suite.trainer.OptimStep(optim_step(model, adam=AdamParams(learning_rate=3e-3)))
    assert all(map(math.isfinite, values))
    assert values[-1] < values[0]


@pytest.mark.parametrize("over", [TOKENS, FULL])
async def test_weight_zero_is_off_bit_for_bit(suite: Suite, over: str) -> None:
    """R-03: the value is still reported."""
    kind = "l2" if over == TOKENS else "kl"
    regularizer = message(over, kind, {}, {}, weight=0.0)
    plain, off = await create(suite, "plain"), await create(suite, "off")
    data = request_data(over, regularizer)
    for _ in range(2):
        await suite.trainer.ForwardBackward(forward_backward(plain))
        answer = await suite.trainer.ForwardBackward(forward_backward(off, loss=regularized(regularizer), batch=data))
        for model in (plain, off):
            await suite.trainer.OptimStep(optim_step(model))
    (report,) = answer.regularizers
    assert report.value > 0
    assert (report.contribution, report.weight) == (0.0, 0.0)
    assert answer.metrics["loss:sum"] == answer.metrics["base:sum"]
    assert await weights_sha256(suite, plain) == await weights_sha256(suite, off)


async def test_reports_come_in_order_with_their_parts(suite: Suite) -> None:
    """R-03, R-04: the total's norm is that of the summed gradients, in the logprobs' space and in the parameters'."""
    first = message(TOKENS, "l1", {}, {}, name="first", weight=0.5)
    second = message(TOKENS, "l2", {}, {}, name="second", weight=0.25)
    opposite = message(TOKENS, "kl", {}, {"estimator": "k1"}, name="opposite", weight=2.0)
    model = await create(suite)
    data = batch(reference=columns(TOKENS)["reference"])
    answer = await suite.trainer.ForwardBackward(
        forward_backward(model, loss=regularized(first, second, opposite), batch=data, parameter_grad_norms=True)
    )
    assert [report.name for report in answer.regularizers] == ["first", "second", "opposite"]
    p = np.frombuffer(answer.logprobs.data, "<f4").astype(np.float64)
    # d/dp of -sum p, |p|, p^2 and p - q.
    parts = [-np.ones_like(p), np.sign(p), 2 * p, np.ones_like(p)]
    for report, part in zip(answer.regularizers, parts[1:], strict=True):
        assert report.logprob_grad_norm == pytest.approx(np.linalg.norm(part), rel=1e-5)
        assert report.contribution == pytest.approx(report.weight * report.value)
        assert report.parameter_grad_norm > 0
    total = parts[0] + 0.5 * parts[1] + 0.25 * parts[2] + 2 * parts[3]
    metrics = answer.metrics
    assert metrics["logprob_grad_norm_base:mean"] == pytest.approx(np.linalg.norm(parts[0]), rel=1e-5)
    assert metrics["logprob_grad_norm_total:mean"] == pytest.approx(np.linalg.norm(total), rel=1e-5)
    assert metrics["regularizer_total:sum"] == pytest.approx(sum(r.contribution for r in answer.regularizers))
    step = await suite.trainer.OptimStep(optim_step(model))
    assert metrics["parameter_grad_norm_total:mean"] == pytest.approx(step.metrics["grad_norm:mean"], rel=1e-4)
    # Cross-entropy and k1 are -sum p and sum p - q: the norms of their gradients are the same.
    assert metrics["parameter_grad_norm_base:mean"] == pytest.approx(answer.regularizers[2].parameter_grad_norm)


async def test_asking_for_norms_changes_no_bit(suite: Suite) -> None:
    regularizer = message(TOKENS, "l2", {}, {})
    asked, silent = await create(suite, "asked"), await create(suite, "silent")
    for model in (asked, silent):
        for _ in range(2):  # the second call adds to gradients that are there
            await suite.trainer.ForwardBackward(
                forward_backward(model, loss=regularized(regularizer), parameter_grad_norms=model is asked)
            )
        await suite.trainer.OptimStep(optim_step(model))
    assert await weights_sha256(suite, asked) == await weights_sha256(suite, silent)


async def test_what_is_constant_has_no_gradient(suite: Suite) -> None:
    """R-04: absent, not 0. The gradient of cross-entropy by the logprobs is -w whatever these are."""
    model = await create(suite)
    for choices in ({}, {"function": "sum"}):
        answer = await suite.trainer.ForwardBackward(
            forward_backward(
                model,
                loss=regularized(message(TOKENS, "gradient_penalty", {}, choices)),
                parameter_grad_norms=True,
            )
        )
        (report,) = answer.regularizers
        assert report.value == pytest.approx(sum((math.sqrt(len(row)) - 1) ** 2 for row in ROWS))
        assert not report.HasField("logprob_grad_norm")
        assert not report.HasField("parameter_grad_norm")


async def test_forward_has_values_without_gradients(suite: Suite) -> None:
    model, regularizer = await create(suite), message(TOKENS, "l2", {}, {})
    seen = await suite.trainer.Forward(
        ForwardRequest(model_id=model.model_id, loss=regularized(regularizer), batch=batch())
    )
    answer = await suite.trainer.ForwardBackward(forward_backward(model, loss=regularized(regularizer)))
    assert seen.metrics["loss:sum"] == pytest.approx(answer.metrics["loss:sum"])
    assert seen.regularizers[0].value == pytest.approx(answer.regularizers[0].value)
    assert not seen.regularizers[0].HasField("logprob_grad_norm")
    assert "logprob_grad_norm_total:mean" not in seen.metrics


async def test_contributions_are_linear_in_the_weight(suite: Suite) -> None:
    model = await create(suite)
    gained = []
    for weight in (0.5, 1.0, 2.0):
        regularizer = message(TOKENS, "elastic_net", {}, {}, weight=weight)
        answer = await suite.trainer.ForwardBackward(forward_backward(model, loss=regularized(regularizer)))
        gained.append(answer.metrics["loss:sum"] - answer.metrics["base:sum"])
    assert gained == pytest.approx([gained[1] / 2, gained[1], 2 * gained[1]])


async def test_a_sparse_reference_is_what_it_stands_for(suite: Suite) -> None:
    """N-24, R-03"""
    model = await create(suite)
    full = [np.full((len(row), VOCABULARY), -30.0) for row in ROWS]
    for row in full:
        row[:, :4] = -math.log(4)
    spec = regularized(message(FULL, "kl", {}, {"direction": "reverse"}))
    answers = [
        await suite.trainer.ForwardBackward(forward_backward(model, loss=spec, batch=batch(reference=reference)))
        for reference in (sparse_reference(4, -30.0), Column(ragged=ragged(full, np.float32)))
    ]
    assert answers[0].regularizers == answers[1].regularizers
    without = await suite.trainer.ForwardBackward(
        forward_backward(model, loss=spec, batch=batch(reference=sparse_reference(4, -math.inf)))
    )
    assert without.regularizers[0].value == pytest.approx(answers[0].regularizers[0].value, rel=1e-6)


def test_norms_beside_a_loss_of_the_whole_call() -> None:
    """R-04: in micro-batches as at once; the total's is the norm of what is accumulated."""
    data = on_the_wire(random_batch(CrossEntropy()), FORMS[0])
    del data.loss_inputs["weights"]
    spec = regularized(
        message(TOKENS, "l2", {}, {}, weight=0.01), message(FULL, "entropy", {}, {}, name="h"), custom=mean_square()
    )
    found = []
    for micro_batch_tokens in (4096, 20):
        model = trained("qwen3", micro_batch_tokens=micro_batch_tokens)
        result = model.forward_backward(call(spec, data, parameter_grad_norms=True))
        norm = float(model._adapter.gradients.double().norm())
        assert result.metrics["parameter_grad_norm_total:mean"] == pytest.approx(norm, rel=1e-5)
        found.append(result)
    whole, cut = found
    assert cut.metrics == pytest.approx(whole.metrics, rel=1e-5)
    for ours, theirs in zip(cut.regularizers, whole.regularizers, strict=True):
        assert ours.parameter_grad_norm == pytest.approx(theirs.parameter_grad_norm, rel=1e-5)
        assert ours.logprob_grad_norm == pytest.approx(theirs.logprob_grad_norm, rel=1e-5)


@pytest.mark.parametrize("over", [TOKENS, FULL])
def test_micro_batches_and_omitted_logprobs_change_nothing(over: str) -> None:
    """Masked, so that tokens without weight are not even read."""
    kind = "l2" if over == TOKENS else "entropy"
    regularizer = message(over, kind, {}, {})
    regularizer.choices["mask"] = "weights"
    data = on_the_wire(random_batch(CrossEntropy()), FORMS[0])
    found = []
    for micro_batch_tokens, omit in ((4096, False), (20, True), (1, True)):
        model = trained("qwen3", micro_batch_tokens=micro_batch_tokens)
        result = model.forward_backward(call(regularized(regularizer), data, omit_logprobs=omit))
        found.append((result, model._adapter.gradients.clone()))
    (whole, gradients), *cut = found
    for result, their_gradients in cut:
        assert result.metrics == pytest.approx(whole.metrics, rel=1e-5)
        torch.testing.assert_close(their_gradients, gradients, rtol=1e-5, atol=1e-5)


async def test_metrics_of_chunks_merge_to_those_of_the_whole(suite: Suite) -> None:
    """T-11"""
    model = await create(suite)
    regularizer = message(TOKENS, "l2", {}, {})
    rows = [[1, 2, 3, 4, 5], [1, 2, 3, 9], [7], [4, 4, 2]]

    def data(chosen: list[list[int]]) -> DatumBatch:
        q = [[-5.0 - 0.1 * token for token in row] for row in chosen]
        advantages = [[0.5 if token % 2 else -1.0 for token in row] for row in chosen]
        return batch(
            chosen,
            weights=None,
            logprobs=Column(ragged=ragged(q, np.float32)),
            advantages=Column(ragged=ragged(advantages, np.float32)),
        )

    async def metrics(chosen: list[list[int]]) -> dict[str, float]:
        request = forward_backward(model, loss=regularized(regularizer, ppo={}), batch=data(chosen))
        found = (await suite.trainer.ForwardBackward(request)).metrics
        return {name: value for name, value in found.items() if "norm" not in name}

    parts = [await metrics(rows[:2]), await metrics(rows[2:])]
    whole = await metrics(rows)
    assert len(whole) >= 9
    assert merge_metrics(parts, [part["tokens:sum"] for part in parts]) == pytest.approx(whole, rel=1e-6)

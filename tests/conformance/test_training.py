"""Training is the same whatever computes it (K-02)."""

import asyncio
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from tests.conformance.calls import (
    CROSS_ENTROPY,
    ROWS,
    Array,
    batch,
    column,
    create,
    forward,
    forward_backward,
    optim_step,
    train,
    values,
)
from tests.conformance.losses import CUSTOM, POLICY_LOSSES, REGULARIZED, split
from tests.conformance.worlds import World
from tinsmith.trainer.v1 import DeleteModelRequest, GetCapabilitiesRequest, GetModelRequest
from tinsmith.types.v1 import LoraConfig

pytestmark = pytest.mark.asyncio(loop_scope="module")
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


async def test_model_says_what_it_was_made_of(trainer: World) -> None:
    lora = LoraConfig(rank=3, seed=5, train_mlp=False)
    model = await create(trainer, lora=lora, user_metadata={"team": "red"})
    assert (model.base_model, model.step, model.last_seq_id) == ("random", 0, 0)
    assert (model.lora.rank, model.lora.seed, model.lora.alpha) == (3, 5, 32.0)
    assert (model.lora.train_attention, model.lora.train_mlp, model.lora.train_unembedding) == (True, False, True)
    assert dict(model.user_metadata) == {"team": "red"}


async def test_capabilities_name_backend_and_base_model(trainer: World) -> None:
    answer = await trainer.suite.trainer.GetCapabilities(GetCapabilitiesRequest())
    assert answer.backend == trainer.backend
    assert [(model.name, model.context_length) for model in answer.base_models] == [("random", 512)]
    assert {"cross_entropy", "importance_sampling", "ppo", "cispo", "dro", "gspo"} <= set(answer.losses)


async def test_loss_falls(trainer: World) -> None:
    losses = await train(trainer.suite, await create(trainer), 5)
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0] - 1


async def test_forward_changes_nothing(trainer: World) -> None:
    model = await create(trainer)
    first, second = await forward(trainer.suite, model), await forward(trainer.suite, model)
    assert values(first.logprobs).tolist() == values(second.logprobs).tolist()
    assert (await forward_backward(trainer.suite, model)).metrics["loss:sum"] == first.metrics["loss:sum"]


async def test_loss_is_the_weighted_sum_of_logprobs(trainer: World) -> None:
    weights = np.random.default_rng(0).normal(size=sum(map(len, ROWS))).astype(np.float32)
    data = batch(weights=column(split(weights), np.float32))
    answer = await forward(trainer.suite, await create(trainer), batch=data)
    logprobs = values(answer.logprobs)
    assert logprobs.dtype == np.float32
    assert (logprobs < 0).all()
    np.testing.assert_allclose(answer.metrics["loss:sum"], -(weights * logprobs).sum(), rtol=1e-5)


async def test_logprobs_can_be_left_out(trainer: World) -> None:
    answer = await forward_backward(trainer.suite, await create(trainer), omit_logprobs=True)
    assert not answer.HasField("logprobs")
    assert answer.metrics["loss:sum"] > 0


@pytest.mark.parametrize("kinds", [3, 40], ids=["few targets", "mostly zeros"])
async def test_many_targets_a_token(trainer: World, kinds: int) -> None:
    """One row of K targets and weights a token; with most of them 0 they travel sparse."""
    chance = np.random.default_rng(0)
    targets = [chance.integers(0, 200, (len(row), kinds)) for row in ROWS]
    weights = [chance.random((len(row), kinds)).astype(np.float32) for row in ROWS]
    for target, weight in zip(targets, weights, strict=True):
        target[:, 3:], weight[:, 3:] = 0, 0
    data = batch(target_tokens=column(targets, np.int64), weights=column(weights, np.float32))
    model = await create(trainer)
    answer = await forward_backward(trainer.suite, model, batch=data)
    logprobs = values(answer.logprobs)
    assert logprobs.shape == (sum(map(len, ROWS)), kinds)
    np.testing.assert_allclose(answer.metrics["loss:sum"], -(np.concatenate(weights) * logprobs).sum(), rtol=1e-5)
    await optim_step(trainer.suite, model)
    after = await forward(trainer.suite, model, batch=data)
    assert after.metrics["loss:sum"] < answer.metrics["loss:sum"]


@pytest.mark.parametrize("name", POLICY_LOSSES)
async def test_policy_loss_is_as_defined_and_falls(trainer: World, name: str) -> None:
    loss = POLICY_LOSSES[name]
    model = await create(trainer)
    p = values((await forward(trainer.suite, model)).logprobs)
    data, q, a = loss.data(p)
    answer = await forward_backward(trainer.suite, model, loss=loss.spec, batch=data)
    np.testing.assert_allclose(values(answer.logprobs), p, **CLOSE)
    before = loss.formula(p, q, a, p)
    np.testing.assert_allclose(answer.metrics["loss:sum"], before, rtol=1e-4, atol=1e-4)
    await optim_step(trainer.suite, model, adam={"learning_rate": 1e-3, "eps": 1e-4})
    assert loss.formula(values((await forward(trainer.suite, model)).logprobs), q, a, p) < before


@pytest.mark.parametrize("name", ["cross_entropy", *POLICY_LOSSES, "custom", "regularized"])
async def test_every_backend_makes_the_same_step(trainers: Mapping[str, World], name: str) -> None:
    """The gradient is the same, so the logprobs after a step are, too."""
    after = {}
    for backend, world in trainers.items():
        model = await create(world)
        p = values((await forward(world.suite, model)).logprobs)
        answer = await forward_backward(world.suite, model, **_call_of(name, p))
        step = await optim_step(world.suite, model)
        assert step.metrics["grad_norm:mean"] > 0
        after[backend] = (values((await forward(world.suite, model)).logprobs), answer)
    (expected, answer), *others = after.values()
    for logprobs, other in others:
        np.testing.assert_allclose(logprobs, expected, rtol=1e-4, atol=1e-4)
        assert other.metrics.keys() == answer.metrics.keys()
        for metric, value in answer.metrics.items():
            np.testing.assert_allclose(other.metrics[metric], value, rtol=1e-3, atol=1e-4, err_msg=metric)
        assert [report.name for report in other.regularizers] == [report.name for report in answer.regularizers]


def _call_of(name: str, logprobs: Array) -> dict[str, Any]:
    """Fields of a ForwardBackward with this loss."""
    if name in POLICY_LOSSES:
        return {"loss": POLICY_LOSSES[name].spec, "batch": POLICY_LOSSES[name].data(logprobs)[0]}
    if name == "custom":
        return {"loss": CUSTOM, "batch": batch(weights=None)}
    return {"loss": {"cross_entropy": CROSS_ENTROPY, "regularized": REGULARIZED}[name]}


async def test_gradients_add_up_until_the_step(trainer: World) -> None:
    suite = trainer.suite
    apart, together = await create(trainer), await create(trainer)
    await forward_backward(suite, apart, batch=batch(ROWS[:2]))
    await forward_backward(suite, apart, batch=batch(ROWS[2:]))
    await forward_backward(suite, together)
    await optim_step(suite, apart)
    await optim_step(suite, together)
    both = [values((await forward(suite, model)).logprobs) for model in (apart, together)]
    np.testing.assert_allclose(*both, **CLOSE)


async def test_calls_run_in_the_order_of_seq_ids(trainer: World) -> None:
    suite = trainer.suite
    model, twin = await create(trainer), await create(trainer)
    calls = [
        optim_step(suite, model, seq_id=4),
        forward_backward(suite, model, seq_id=3),
        optim_step(suite, model, seq_id=2),
        forward_backward(suite, model, seq_id=1),
    ]
    answers = await asyncio.gather(*calls)
    assert (answers[0].step, answers[2].step) == (2, 1)
    await train(suite, twin, 2)
    both = [values((await forward(suite, each)).logprobs) for each in (model, twin)]
    assert both[0].tolist() == both[1].tolist()


async def test_repeated_call_gets_the_first_answer(trainer: World) -> None:
    suite, model = trainer.suite, await create(trainer)
    first = await forward_backward(suite, model, seq_id=1)
    assert await forward_backward(suite, model, seq_id=1) == first
    step = await optim_step(suite, model, seq_id=2)
    assert await optim_step(suite, model, seq_id=2) == step
    assert (await suite.trainer.GetModel(GetModelRequest(model_id=model.model_id))).model.step == 1


async def test_models_are_trained_apart(trainer: World) -> None:
    suite = trainer.suite
    alone, one, other = [await create(trainer) for _ in range(3)]
    expected = await train(suite, alone, 2)
    found, _ = await asyncio.gather(train(suite, one, 2), train(suite, other, 3))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


async def test_seed_decides_the_adapter(trainer: World) -> None:
    suite = trainer.suite
    same = [await create(trainer), await create(trainer)]
    other = await create(trainer, lora=LoraConfig(rank=4, seed=2))
    for model in (*same, other):
        await train(suite, model, 1)
    first, second, third = [values((await forward(suite, model)).logprobs) for model in (*same, other)]
    assert first.tolist() == second.tolist()
    assert first.tolist() != third.tolist()


async def test_deleted_model_is_gone(trainer: World) -> None:
    model = await create(trainer)
    request = DeleteModelRequest(model_id=model.model_id)
    assert (await trainer.suite.trainer.DeleteModel(request)).deleted
    assert not (await trainer.suite.trainer.DeleteModel(request)).deleted

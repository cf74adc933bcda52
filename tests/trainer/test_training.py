"""Training through the public client: what a call does, once and in order."""

import asyncio
import random

import numpy as np
import pytest

from tests.trainer.calls import ADAM, ROWS, batch, create, datum_list, forward_backward, optim_step
from tinsmith import TinsmithError
from tinsmith.aio import Suite
from tinsmith.arrays import rows
from tinsmith.trainer.v1 import (
    AdamParams,
    CreateModelRequest,
    DeleteModelRequest,
    ForwardRequest,
    GetCapabilitiesRequest,
    GetModelRequest,
    HeartbeatRequest,
    ImportanceSamplingLoss,
    ListModelsRequest,
    LossSpec,
    Model,
    SaveForSamplerRequest,
)
from tinsmith.types.v1 import LoraConfig


async def adapter_sha256(suite: Suite, model: Model) -> str:
    saved = await suite.trainer.SaveForSampler(SaveForSamplerRequest(model_id=model.model_id))
    return next(file.sha256 for file in saved.checkpoint.files if file.name == "adapter_model.safetensors")


async def test_the_loss_falls(suite: Suite) -> None:
    model = await create(suite)
    losses = []
    for _ in range(8):
        losses.append((await suite.trainer.ForwardBackward(forward_backward(model))).metrics["loss:sum"])
        step = await suite.trainer.OptimStep(optim_step(model, adam=AdamParams(learning_rate=0.1)))
    assert losses[-1] < 0.5 * losses[0]
    assert step.step == 8
    assert step.metrics["learning_rate:mean"] == 0.1
    assert step.metrics["grad_norm:mean"] > 0


async def test_logprobs_come_back_row_by_row_unless_left_out(suite: Suite) -> None:
    model = await create(suite)
    answer = await suite.trainer.ForwardBackward(forward_backward(model))
    found = rows(answer.logprobs)
    assert [len(row) for row in found] == [len(row) for row in ROWS]
    assert answer.metrics["loss:sum"] == pytest.approx(-float(sum(row.sum() for row in found)), rel=1e-5)
    omitted = await suite.trainer.ForwardBackward(forward_backward(model, omit_logprobs=True))
    assert not omitted.HasField("logprobs")
    assert omitted.metrics["loss:sum"] == pytest.approx(answer.metrics["loss:sum"], rel=1e-5)


async def test_single_data_and_ragged_columns_are_the_same(suite: Suite) -> None:
    model = await create(suite)
    ragged = await suite.trainer.ForwardBackward(forward_backward(model))
    single = await suite.trainer.ForwardBackward(forward_backward(model, list=datum_list()))
    assert single.logprobs == ragged.logprobs
    assert single.metrics == ragged.metrics


async def test_forward_leaves_no_gradient(suite: Suite) -> None:
    model = await create(suite)
    request = ForwardRequest(model_id=model.model_id, loss=forward_backward(model).loss, batch=batch())
    forward = await suite.trainer.Forward(request)
    with pytest.raises(TinsmithError) as refused:
        await suite.trainer.OptimStep(optim_step(model))
    assert refused.value.reason == "NO_GRADIENTS"
    assert forward.logprobs == (await suite.trainer.ForwardBackward(forward_backward(model))).logprobs


async def test_two_halves_accumulate_to_the_whole(suite: Suite) -> None:
    """T-11"""
    whole, halves = await create(suite), await create(suite)
    losses = [(await suite.trainer.ForwardBackward(forward_backward(whole))).metrics["loss:sum"]]
    for part in (ROWS[:1], ROWS[1:]):
        answer = await suite.trainer.ForwardBackward(forward_backward(halves, batch=batch(part)))
        losses.append(answer.metrics["loss:sum"])
    assert losses[0] == pytest.approx(losses[1] + losses[2], rel=1e-5)
    steps = [(await suite.trainer.OptimStep(optim_step(model))).metrics["grad_norm:mean"] for model in (whole, halves)]
    assert steps[0] == pytest.approx(steps[1], rel=1e-5)


async def test_shuffled_arrivals_of_two_models_give_the_weights_of_sequential_calls(suite: Suite) -> None:
    """T-02"""
    sequential = await create(suite)
    for _ in range(4):
        await suite.trainer.ForwardBackward(forward_backward(sequential))
        await suite.trainer.OptimStep(optim_step(sequential))
    expected = await adapter_sha256(suite, sequential)
    models = [await create(suite), await create(suite)]
    calls = [(model, seq_id) for model in models for seq_id in range(1, 9)] * 2
    random.Random(1).shuffle(calls)

    async def send(model: Model, seq_id: int) -> None:
        if seq_id % 2:
            await suite.trainer.ForwardBackward(forward_backward(model, seq_id))
        else:
            await suite.trainer.OptimStep(optim_step(model, seq_id))

    await asyncio.gather(*(send(*call) for call in calls))
    assert [await adapter_sha256(suite, model) for model in models] == [expected, expected]


async def test_retried_optim_step_is_applied_once(suite: Suite) -> None:
    model = await create(suite)
    await suite.trainer.ForwardBackward(forward_backward(model, 1))
    first = await suite.trainer.OptimStep(optim_step(model, 2))
    after = await adapter_sha256(suite, model)
    assert await suite.trainer.OptimStep(optim_step(model, 2)) == first
    assert await adapter_sha256(suite, model) == after


async def test_a_call_whose_client_gave_up_is_finished_and_can_be_asked_for_again(suite: Suite) -> None:
    model = await create(suite)
    slow = forward_backward(model, 1, batch=batch([[5] * 400 for _ in range(1)] + [[i % 200] * 300 for i in range(9)]))
    with pytest.raises(TinsmithError) as gave_up:
        await suite.trainer.ForwardBackward(slow, timeout=0.02)
    assert gave_up.value.code.name == "DEADLINE_EXCEEDED"
    again = await suite.trainer.ForwardBackward(slow)
    assert again.metrics["loss:sum"] > 0
    once = await create(suite)
    await suite.trainer.ForwardBackward(forward_backward(once, batch=slow.batch))
    norms = [
        (await suite.trainer.OptimStep(optim_step(each, seq_id))).metrics["grad_norm:mean"]
        for each, seq_id in ((model, 2), (once, 0))
    ]
    assert norms[0] == norms[1]


@pytest.mark.parametrize("refused_by", ["contract", "columns", "loss"])
async def test_a_refused_call_consumes_its_seq_id(suite: Suite, refused_by: str) -> None:
    model = await create(suite)
    bad = {
        "contract": optim_step(model, 1, adam=type(ADAM)(learning_rate=-1)),
        "columns": forward_backward(model, 1, batch=batch(weights=None)),
        "loss": forward_backward(model, 1, loss=LossSpec()),
    }[refused_by]
    method = suite.trainer.OptimStep if refused_by == "contract" else suite.trainer.ForwardBackward
    for _ in range(2):
        with pytest.raises(TinsmithError) as refused:
            await method(bad)  # type: ignore[arg-type]
    reasons = {"contract": "INVALID_REQUEST", "columns": "MISSING_LOSS_INPUT", "loss": "UNKNOWN_LOSS"}
    assert refused.value.reason == reasons[refused_by]
    await suite.trainer.ForwardBackward(forward_backward(model, 2))
    assert (await suite.trainer.OptimStep(optim_step(model, 3))).step == 1


async def test_a_gap_in_the_order_is_reported(suite: Suite) -> None:
    model = await create(suite)
    with pytest.raises(TinsmithError) as refused:
        await suite.trainer.ForwardBackward(forward_backward(model, 2))
    assert (refused.value.code.name, refused.value.reason) == ("ABORTED", "SEQUENCE_GAP")


async def test_gradients_that_are_not_finite_are_dropped_and_the_weights_kept(suite: Suite) -> None:
    model = await create(suite)
    before = await adapter_sha256(suite, model)
    columns = {"logprobs": [[-200.0] * len(row) for row in ROWS], "advantages": [[1.0] * len(row) for row in ROWS]}
    wrong = batch(weights=None, **{name: _floats(values) for name, values in columns.items()})
    loss = LossSpec(importance_sampling=ImportanceSamplingLoss())
    await suite.trainer.ForwardBackward(forward_backward(model, loss=loss, batch=wrong))
    with pytest.raises(TinsmithError) as refused:
        await suite.trainer.OptimStep(optim_step(model))
    assert (refused.value.code.name, refused.value.reason) == ("INTERNAL", "NON_FINITE_GRADIENT")
    assert await adapter_sha256(suite, model) == before
    await suite.trainer.ForwardBackward(forward_backward(model))
    assert (await suite.trainer.OptimStep(optim_step(model))).step == 1


async def test_creating_with_the_same_request_id_makes_one_model(suite: Suite) -> None:
    request = CreateModelRequest(request_id="once", base_model="random", lora=LoraConfig(rank=2))
    first, second = await asyncio.gather(suite.trainer.CreateModel(request), suite.trainer.CreateModel(request))
    assert first == second
    assert len((await suite.trainer.ListModels(ListModelsRequest())).models) == 1


async def test_defaults_of_an_adapter_are_filled_in(suite: Suite) -> None:
    model = await create(suite, lora=LoraConfig())
    assert (model.lora.rank, model.lora.alpha, model.lora.train_attention) == (32, 32.0, True)
    assert model.lora.train_unembedding
    assert model.trainable_parameters > 0


@pytest.mark.parametrize(
    ("fields", "code", "reason"),
    [
        ({"base_model": "nobody/nothing"}, "NOT_FOUND", "BASE_MODEL_NOT_FOUND"),
        ({"checkpoint_uri": "tinsmith://a/training/b"}, "NOT_FOUND", "CHECKPOINT_NOT_FOUND"),
        ({"checkpoint_uri": "../../etc/passwd"}, "INVALID_ARGUMENT", "BAD_CHECKPOINT_URI"),
        ({"model_id": "taken"}, "ALREADY_EXISTS", "MODEL_EXISTS"),
        ({"lora": LoraConfig(rank=4000)}, "INVALID_ARGUMENT", "RANK_TOO_LARGE"),
        (
            {"lora": LoraConfig(train_attention=False, train_mlp=False, train_unembedding=False)},
            "INVALID_ARGUMENT",
            "NOTHING_TO_TRAIN",
        ),
    ],
)
async def test_a_model_that_can_not_be_made_is_refused(
    suite: Suite, fields: dict[str, object], code: str, reason: str
) -> None:
    await create(suite, "taken")
    with pytest.raises(TinsmithError) as refused:
        await create(suite, **fields)  # type: ignore[arg-type]
    assert (refused.value.code.name, refused.value.reason) == (code, reason)


async def test_models_are_listed_in_pages_oldest_first(suite: Suite) -> None:
    made = [(await create(suite)).model_id for _ in range(5)]
    found, token = [], ""
    for _ in range(3):
        page = await suite.trainer.ListModels(ListModelsRequest(page_size=2, page_token=token))
        found += [model.model_id for model in page.models]
        token = page.next_page_token
    assert found == made
    assert token == ""
    with pytest.raises(TinsmithError) as refused:
        await suite.trainer.ListModels(ListModelsRequest(page_token="nonsense"))
    assert refused.value.reason == "BAD_PAGE_TOKEN"


async def test_a_deleted_model_is_gone_and_deleting_again_is_fine(suite: Suite) -> None:
    """T-13"""
    model = await create(suite)
    waiting = asyncio.create_task(_reason_of(suite.trainer.OptimStep(optim_step(model, 2))))
    await asyncio.sleep(0.05)
    assert (await suite.trainer.DeleteModel(DeleteModelRequest(model_id=model.model_id))).deleted
    assert not (await suite.trainer.DeleteModel(DeleteModelRequest(model_id=model.model_id))).deleted
    assert await waiting == "MODEL_NOT_FOUND"
    assert await _reason_of(suite.trainer.GetModel(GetModelRequest(model_id=model.model_id))) == "MODEL_NOT_FOUND"
    answer = await suite.trainer.Heartbeat(HeartbeatRequest(model_ids=[model.model_id]))
    assert list(answer.unknown_model_ids) == [model.model_id]


async def test_capabilities_name_what_works(suite: Suite) -> None:
    answer = await suite.trainer.GetCapabilities(GetCapabilitiesRequest())
    assert list(answer.losses) == ["cross_entropy", "importance_sampling", "ppo", "cispo", "dro", "gspo", "custom"]
    assert [model.name for model in answer.base_models] == ["random"]
    assert answer.base_models[0].context_length == 512
    assert (answer.backend, answer.device) == ("local", "cpu float32")


def _floats(values: list[list[float]]) -> object:
    from tinsmith.arrays import ragged
    from tinsmith.types.v1 import Column

    return Column(ragged=ragged(values, np.float32))


async def _reason_of(call: object) -> str:
    with pytest.raises(TinsmithError) as refused:
        await call  # type: ignore[misc]
    return refused.value.reason or ""

"""Calls of several models in one pass: to the bit what each gives alone."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trainer.models import base_model, batch, trained
from tinsmith_server.storage import LoraShape
from tinsmith_server.trainer.local.backend import causal_model
from tinsmith_server.trainer.local.causal import CausalModel
from tinsmith_server.trainer.local.together import run_together
from tinsmith_server.trainer.local.trained_model import Limits, TrainedModel
from tinsmith_server.trainer.losses import Cispo, CrossEntropy, Dro, Gspo, ImportanceSampling, Loss, Ppo
from tinsmith_server.trainer.request import AdamParams, Batch, ForwardResult, TrainingCall

LOSSES: list[Loss] = [CrossEntropy(), Ppo(), ImportanceSampling(), Gspo(clip_low=0.5, clip_high=2.0), Dro(), Cispo()]
SHAPES = [
    LoraShape(rank=4, alpha=8.0, seed=0),
    LoraShape(rank=8, alpha=4.0, seed=1),
    LoraShape(rank=4, alpha=2.0, seed=2, train_mlp=False),
    LoraShape(rank=4, alpha=8.0, seed=3, train_attention=False, train_unembedding=False),
    LoraShape(rank=1, alpha=8.0, seed=4, train_unembedding=False),
    LoraShape(rank=4, alpha=8.0, seed=0),
    LoraShape(rank=16, alpha=8.0, seed=6, train_attention=False, train_mlp=False),
    LoraShape(rank=4, alpha=8.0, seed=7),
]
ADAM = AdamParams(learning_rate=1e-2)
BASES = {family: causal_model(base_model(family), name=family) for family in ("qwen3", "qwen2", "llama")}


def models(base: CausalModel, shapes: Sequence[LoraShape] = SHAPES) -> list[TrainedModel]:
    return [TrainedModel(base, shape, limits=Limits()) for shape in shapes]


def call(number: int, step: int) -> TrainingCall:
    """A call of some kind: each loss, K targets a token, logprobs asked for or left out."""
    loss = LOSSES[(number + step) % len(LOSSES)]
    many = 3 if isinstance(loss, CrossEntropy) and step % 2 else None
    data = batch(loss, seed=100 * step + number, targets_a_token=many)
    return TrainingCall(batch=data, loss=loss, omit_logprobs=number % 2 == 0)


def assert_same(alone: ForwardResult, together: ForwardResult | Exception) -> None:
    assert isinstance(together, ForwardResult)
    assert together.metrics == alone.metrics
    assert (together.logprobs is None) == (alone.logprobs is None)
    if alone.logprobs is not None and together.logprobs is not None:
        assert np.array_equal(together.logprobs.values, alone.logprobs.values)


@pytest.mark.parametrize("family", BASES)
@settings(max_examples=12, deadline=None)
@given(chance=st.randoms(use_true_random=False))
def test_eight_models_in_any_company_become_what_they_are_alone(family: str, chance: Any) -> None:
    """T-02. Each takes its own calls in their order, some of them without gradients; who runs with whom changes."""
    base = BASES[family]
    alone, together = models(base), models(base)
    steps = [0] * len(SHAPES)
    for _ in range(5):
        company = chance.sample(range(len(SHAPES)), chance.randint(1, len(SHAPES)))
        trains = {number: chance.random() < 0.8 for number in company}
        calls = {number: call(number, steps[number]) for number in company}
        results = run_together([together[number].prepare(calls[number], trains=trains[number]) for number in company])
        for number, result in zip(company, results, strict=True):
            method = alone[number].forward_backward if trains[number] else alone[number].forward
            assert_same(method(calls[number]), result)
            steps[number] += 1
            if not together[number].is_at_rest and chance.random() < 0.7:
                assert together[number].optim_step(ADAM) == alone[number].optim_step(ADAM)
    assert [model.state_files() for model in together] == [model.state_files() for model in alone]


@pytest.mark.parametrize("family", BASES)
def test_large_matrices_whose_halves_stay_apart_too(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from tinsmith_server.trainer.llama import adapted

    monkeypatch.setattr(adapted, "_THIN_COST", 2.0)  # so that some ranks are merged and others are not
    alone, together = models(BASES[family]), models(BASES[family])
    for step in range(2):
        calls = [call(number, step) for number in range(len(SHAPES))]
        results = run_together([model.prepare(each, trains=True) for model, each in zip(together, calls, strict=True)])
        for model, each, result in zip(alone, calls, results, strict=True):
            assert_same(model.forward_backward(each), result)
        for model in (*alone, *together):
            model.optim_step(ADAM)
    assert [model.state_files() for model in together] == [model.state_files() for model in alone]


def test_logits_that_do_not_fit_at_once_are_cut_model_by_model(monkeypatch: pytest.MonkeyPatch) -> None:
    from tinsmith_server.trainer.llama import head

    monkeypatch.setattr(head, "_PIECE_LOGITS", 97 * 150)  # more than one model's outputs, less than two models'
    alone, together = models(BASES["qwen3"], SHAPES[:3]), models(BASES["qwen3"], SHAPES[:3])
    calls = [call(number, 0) for number in range(3)]
    results = run_together([model.prepare(each, trains=True) for model, each in zip(together, calls, strict=True)])
    for model, each, result in zip(alone, calls, results, strict=True):
        assert_same(model.forward_backward(each), result)
    assert all(a.optim_step(ADAM) == b.optim_step(ADAM) for a, b in zip(together, alone, strict=True))


def test_long_rows_go_through_fused_attention_to_the_same_bits() -> None:
    def data(seed: int) -> Batch:
        chance = np.random.default_rng(seed)
        rows = [chance.integers(0, 97, length) for length in (100, 130, 70, 5)]
        rows.append(np.concatenate([rows[0][:80], rows[1][:9]]))
        return of_rows(rows)

    alone, together = models(BASES["qwen3"], SHAPES[:3]), models(BASES["qwen3"], SHAPES[:3])
    calls = [TrainingCall(batch=data(number), loss=CrossEntropy()) for number in range(3)]
    results = run_together([model.prepare(each, trains=True) for model, each in zip(together, calls, strict=True)])
    for model, each, result in zip(alone, calls, results, strict=True):
        assert_same(model.forward_backward(each), result)
    assert all(a.optim_step(ADAM) == b.optim_step(ADAM) for a, b in zip(together, alone, strict=True))


def of_rows(rows: Sequence[Any], weight: float = 1.0) -> Batch:
    from tinsmith_server.trainer.ragged import Ragged

    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    tokens = Ragged(values=np.concatenate(rows).astype(np.int64), offsets=offsets)
    weights = Ragged(values=np.full(offsets[-1], weight, np.float32), offsets=offsets)
    return Batch(tokens=tokens, columns={"target_tokens": tokens, "weights": weights})


def test_what_is_not_a_number_in_one_model_stays_in_it() -> None:
    alone, together = models(BASES["qwen3"], SHAPES[:4]), models(BASES["qwen3"], SHAPES[:4])
    together[1]._adapter.values.fill_(math.nan)
    calls = [call(number, 0) for number in range(4)]
    calls[3] = TrainingCall(batch=of_rows([[1, 2, 3]], weight=3e38), loss=CrossEntropy())
    results = run_together([model.prepare(each, trains=True) for model, each in zip(together, calls, strict=True)])
    assert isinstance(results[1], ForwardResult)
    assert math.isnan(results[1].metrics["loss:sum"])
    for number in (0, 2, 3):
        assert_same(alone[number].forward_backward(calls[number]), results[number])
    for number in (0, 2):
        assert together[number].optim_step(ADAM) == alone[number].optim_step(ADAM)
        assert together[number].state_files() == alone[number].state_files()


class _Broken(CrossEntropy):
    """A loss that fails when it is evaluated."""

    def __call__(self, logprobs: torch.Tensor, columns: Any) -> torch.Tensor:
        raise ArithmeticError("broken")


def test_a_loss_that_fails_is_its_own_calls_error_and_leaves_no_gradient() -> None:
    alone, together = models(BASES["llama"], SHAPES[:3]), models(BASES["llama"], SHAPES[:3])
    calls = [call(number, 0) for number in range(3)]
    calls[1] = TrainingCall(batch=batch(CrossEntropy(), seed=1), loss=_Broken())
    results = run_together([model.prepare(each, trains=True) for model, each in zip(together, calls, strict=True)])
    assert isinstance(results[1], ArithmeticError)
    assert together[1].is_at_rest
    for number in (0, 2):
        assert_same(alone[number].forward_backward(calls[number]), results[number])
        assert together[number].optim_step(ADAM) == alone[number].optim_step(ADAM)


@pytest.mark.parametrize("family", BASES)
def test_layers_that_are_computed_again_give_the_same_bits(family: str) -> None:
    remembered = models(BASES[family], SHAPES[:4])
    recomputed = models(causal_model(base_model(family), name=family, recompute=True), SHAPES[:4])
    for step in range(2):
        calls = [call(number, step) for number in range(4)]
        results = run_together(
            [model.prepare(each, trains=True) for model, each in zip(recomputed, calls, strict=True)]
        )
        for model, each, result in zip(remembered, calls, results, strict=True):
            assert_same(model.forward_backward(each), result)
        for model in (*remembered, *recomputed):
            model.optim_step(ADAM)
    assert [model.state_files() for model in recomputed] == [model.state_files() for model in remembered]


def test_a_batch_that_takes_much_memory_is_recomputed_by_itself() -> None:
    base = causal_model(base_model("qwen3"), name="qwen3")
    assert not base.recomputes(4096)  # type: ignore[attr-defined]
    assert base.recomputes(4_000_000)  # type: ignore[attr-defined]


def test_a_base_in_bfloat16_trains_nearly_as_in_float32() -> None:
    exact = trained("qwen3")
    base = base_model("qwen3")
    for parameter in base.parameters():
        parameter.data = parameter.data.to(torch.bfloat16)
    rough = TrainedModel(causal_model(base, name="qwen3"), exact.shape, limits=Limits())
    assert rough._adapter.values.dtype == torch.float32
    data = batch(CrossEntropy())
    losses = []
    for _ in range(12):
        results = [model.forward_backward(TrainingCall(batch=data, loss=CrossEntropy())) for model in (exact, rough)]
        losses.append([result.metrics["loss:sum"] for result in results])
        for model in (exact, rough):
            model.optim_step(AdamParams(learning_rate=2e-2))
    first, last = losses[0], losses[-1]
    assert first[1] == pytest.approx(first[0], rel=0.02)
    assert first[0] - last[0] > 20
    assert first[1] - last[1] == pytest.approx(first[0] - last[0], rel=0.1)

"""Losses, logprobs, gradients and weights against PEFT's layers, torch's autograd and torch's AdamW."""

from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch.nn.init import kaiming_uniform_

from tests.trainer.models import Peft, batch, trained
from tinsmith_server.trainer.local.trained_model import TrainedModel
from tinsmith_server.trainer.losses import Cispo, CrossEntropy, Dro, Gspo, ImportanceSampling, Loss, Ppo
from tinsmith_server.trainer.request import AdamParams, TrainingCall

# eps is large so that gradients of the size of rounding errors do not make steps of full size.
ADAM = AdamParams(learning_rate=1e-3, weight_decay=0.01, eps=1e-4)
LOSSES = [
    CrossEntropy(),
    ImportanceSampling(),
    Ppo(),
    Ppo(clip_low=0.5, clip_high=3.0),
    Cispo(clip_low=0.8, clip_high=1.2),
    Dro(),
    Gspo(clip_low=0.9, clip_high=1.1),
]


def gradients(model: TrainedModel) -> dict[str, torch.Tensor]:
    found = {}
    for matrix, a_RI, b_OR in model._adapter.split(model._adapter.gradients):
        found[f"base_model.model.{matrix.path}.lora_A.weight"] = a_RI.clone()
        found[f"base_model.model.{matrix.path}.lora_B.weight"] = b_OR.clone()
    return found


def weights(model: TrainedModel) -> dict[str, torch.Tensor]:
    return safetensors.torch.load(model.adapter_files()["adapter_model.safetensors"])


def assert_alike(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor], tolerance: float = 1e-5) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], atol=tolerance, rtol=tolerance, msg=name)


@pytest.mark.parametrize("family", ["qwen3", "qwen2", "llama", "gpt2"])
@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
def test_three_steps_are_those_of_peft(family: str, loss: Loss) -> None:
    """T-10"""
    ours = trained(family)
    theirs = Peft.of(family, ours)
    for step in range(3):
        data = batch(loss, seed=step)
        result = ours.forward_backward(TrainingCall(batch=data, loss=loss))
        value, logprobs = theirs.forward_backward(data, loss)
        assert result.logprobs is not None
        assert result.metrics["loss:sum"] == pytest.approx(value, rel=1e-5, abs=1e-5 * len(logprobs))
        np.testing.assert_allclose(result.logprobs.values, logprobs, atol=1e-5)
        assert_alike(gradients(ours), {name: value.grad for name, value in Peft.parameters(theirs.model).items()}, 1e-4)
        ours.optim_step(ADAM)
        theirs.step()
    assert_alike(weights(ours), {name: value.data for name, value in Peft.parameters(theirs.model).items()})


@pytest.mark.parametrize("shape", [{}, {"train_mlp": False}, {"train_attention": False, "train_unembedding": False}])
def test_only_the_chosen_matrices_are_trained(shape: dict[str, bool]) -> None:
    ours = trained("qwen3", **shape)
    theirs = Peft.of("qwen3", ours)
    data = batch(CrossEntropy())
    ours.forward_backward(TrainingCall(batch=data, loss=CrossEntropy()))
    theirs.forward_backward(data, CrossEntropy())
    assert_alike(gradients(ours), {name: value.grad for name, value in Peft.parameters(theirs.model).items()}, 1e-4)


def test_soft_targets_are_a_weighted_sum_over_them() -> None:
    loss = CrossEntropy()
    ours, data = trained("qwen3"), batch(loss, targets_a_token=3)
    theirs = Peft.of("qwen3", ours)
    result = ours.forward_backward(TrainingCall(batch=data, loss=loss))
    value, logprobs = theirs.forward_backward(data, loss)
    assert result.logprobs is not None
    assert result.logprobs.values.shape == data.columns["weights"].values.shape
    assert result.metrics["loss:sum"] == pytest.approx(value, rel=1e-5)
    np.testing.assert_allclose(result.logprobs.values, logprobs, atol=1e-5)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
@pytest.mark.parametrize("micro_batch_tokens", [1, 20, 4096])
def test_leaving_out_logprobs_and_cutting_into_micro_batches_change_nothing(
    loss: Loss, micro_batch_tokens: int
) -> None:
    whole, cut = trained("qwen3"), trained("qwen3", micro_batch_tokens=micro_batch_tokens)
    data = batch(loss)
    expected = whole.forward_backward(TrainingCall(batch=data, loss=loss))
    found = cut.forward_backward(TrainingCall(batch=data, loss=loss, omit_logprobs=True))
    assert found.logprobs is None
    assert found.metrics == pytest.approx(expected.metrics, rel=1e-4)
    assert_alike(gradients(cut), gradients(whole), 1e-4)


def test_large_matrices_that_are_not_merged_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    from tinsmith_server.trainer.llama import adapted

    merged, apart = trained("qwen2"), trained("qwen2")
    call = TrainingCall(batch=batch(CrossEntropy()), loss=CrossEntropy())
    merged.forward_backward(call)
    monkeypatch.setattr(adapted, "_THIN_COST", 0.0)
    apart.forward_backward(call)
    assert_alike(gradients(apart), gradients(merged), 1e-4)


def test_logits_in_pieces_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    from tinsmith_server.trainer.llama import head

    whole, pieces = trained("qwen3"), trained("qwen3")
    call = TrainingCall(batch=batch(CrossEntropy()), loss=CrossEntropy())
    expected = whole.forward_backward(call)
    monkeypatch.setattr(head, "_PIECE_LOGITS", 97 * 10)
    found = pieces.forward_backward(call)
    assert expected.logprobs is not None
    assert found.logprobs is not None
    np.testing.assert_allclose(found.logprobs.values, expected.logprobs.values, atol=1e-5)
    assert_alike(gradients(pieces), gradients(whole), 1e-4)


def test_the_same_calls_give_the_same_bytes_and_other_seeds_do_not() -> None:
    def run(seed: int, noise: int) -> bytes:
        torch.manual_seed(noise)
        model = trained("qwen3", seed=seed)
        for step in range(2):
            model.forward_backward(TrainingCall(batch=batch(Ppo(), seed=step), loss=Ppo(), omit_logprobs=True))
            torch.rand(3)
            model.optim_step(ADAM)
        return model.adapter_files()["adapter_model.safetensors"]

    assert run(seed=1, noise=1) == run(seed=1, noise=2)
    assert run(seed=1, noise=1) != run(seed=2, noise=1)


def test_the_adapter_begins_as_pefts_does() -> None:
    """A as torch's own kaiming_uniform_ draws it from the seed, B zero."""
    generator = torch.Generator().manual_seed(3)
    values = weights(trained("llama"))
    order = [f"base_model.model.{matrix.path}" for matrix in trained("llama")._adapter.matrices]
    for path in order:
        a_RI = values[f"{path}.lora_A.weight"]
        expected = kaiming_uniform_(torch.empty_like(a_RI), a=5**0.5, generator=generator)
        torch.testing.assert_close(a_RI, expected)
        assert not values[f"{path}.lora_B.weight"].any()


def test_the_gradient_is_clipped_by_its_global_norm() -> None:
    ours = trained("qwen3")
    theirs = Peft.of("qwen3", ours, weight_decay=0.0)
    data: Any = batch(CrossEntropy())
    ours.forward_backward(TrainingCall(batch=data, loss=CrossEntropy()))
    theirs.forward_backward(data, CrossEntropy())
    norm = torch.nn.utils.clip_grad_norm_(Peft.parameters(theirs.model).values(), 0.5)
    clipped = ours.optim_step(AdamParams(learning_rate=1e-3, grad_clip_norm=0.5, eps=1e-2))
    for group in theirs.optimizer.param_groups:
        group["eps"] = 1e-2
    theirs.step()
    assert clipped.metrics["grad_norm:mean"] == pytest.approx(float(norm), rel=1e-5)
    assert_alike(weights(ours), {name: value.data for name, value in Peft.parameters(theirs.model).items()})

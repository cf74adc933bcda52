"""AdamW and gradient accumulation against torch's own; what an adapter is made of."""

import json

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trainer.models import base_model, batch, trained
from tinsmith_server.storage import LoraShape
from tinsmith_server.trainer.local.adapter import AdaptedMatrix, Adapter
from tinsmith_server.trainer.local.backend import causal_model
from tinsmith_server.trainer.local.optimizer import AdamW
from tinsmith_server.trainer.local.trained_model import Limits, TrainedModel
from tinsmith_server.trainer.losses import CrossEntropy
from tinsmith_server.trainer.request import AdamParams, TrainingCall

BASE = causal_model(base_model("qwen3"), name="qwen3")


@settings(max_examples=60, deadline=None)
@given(
    learning_rate=st.sampled_from([0.0, 1e-4, 1e-2, 1.0]),
    beta1=st.sampled_from([0.0, 0.5, 0.9, 0.99]),
    beta2=st.sampled_from([0.0, 0.9, 0.95, 0.999]),
    eps=st.sampled_from([1e-8, 1e-4, 1.0]),
    weight_decay=st.sampled_from([0.0, 0.01, 0.3]),
    grad_clip_norm=st.sampled_from([0.0, 1e-3, 1.0, 1e6]),
    accumulated=st.lists(st.integers(1, 3), min_size=1, max_size=5),
    seed=st.integers(0, 1000),
)
def test_steps_are_those_of_torch(
    learning_rate: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    grad_clip_norm: float,
    accumulated: list[int],
    seed: int,
) -> None:
    """Several gradients a step, each step with the same settings."""
    chance = torch.Generator().manual_seed(seed)
    adapter = Adapter([AdaptedMatrix(path="x", inputs=7, outputs=5)], LoraShape(rank=3, alpha=6.0))
    adapter.values.copy_(torch.randn(adapter.size, generator=chance))
    ours = AdamW(adapter)
    weight = torch.nn.Parameter(adapter.values.clone())
    theirs = torch.optim.AdamW(
        [weight], lr=learning_rate, betas=(beta1, beta2), eps=eps, weight_decay=weight_decay, foreach=False
    )
    params = AdamParams(
        learning_rate=learning_rate,
        beta1=beta1,
        beta2=beta2,
        eps=eps,
        weight_decay=weight_decay,
        grad_clip_norm=grad_clip_norm,
    )
    for count in accumulated:
        gradients = [torch.randn(adapter.size, generator=chance) for _ in range(count)]
        for gradient in gradients:
            a, b = gradient[:21], gradient[21:]
            adapter.accumulate({"x": (a, b)})
        weight.grad = torch.stack(gradients).sum(0)
        expected_norm = torch.linalg.vector_norm(weight.grad.double())
        if grad_clip_norm:
            torch.nn.utils.clip_grad_norm_([weight], grad_clip_norm)
        theirs.step()
        assert ours.apply(params) == pytest.approx(float(expected_norm), rel=1e-5)
        assert not adapter.has_gradients
        assert not adapter.gradients.any()
    torch.testing.assert_close(adapter.values, weight.data, rtol=1e-4, atol=1e-5)


def test_three_calls_accumulate_to_the_gradient_of_all_their_data() -> None:
    """The loss is a sum, so the gradient of a batch is that of its parts added up."""
    one, many = trained("qwen3"), trained("qwen3")
    data = [TrainingCall(batch=batch(CrossEntropy(), seed=seed), loss=CrossEntropy()) for seed in range(3)]
    separate = []
    for call in data:
        many.forward_backward(call)
        before = one._adapter.gradients.clone()
        one.forward_backward(call)
        separate.append(one._adapter.gradients - before)
    torch.testing.assert_close(many._adapter.gradients, sum(separate, torch.zeros(many._adapter.size)))
    assert many.optim_step(AdamParams(learning_rate=1e-3)).step == 1


ATTENTION = {f"model.layers.{layer}.self_attn.{name}_proj" for layer in range(2) for name in "qkvo"}
MLP = {f"model.layers.{layer}.mlp.{name}_proj" for layer in range(2) for name in ("gate", "up", "down")}
HEAD = {"lm_head"}


@pytest.mark.parametrize("attention", [True, False])
@pytest.mark.parametrize("mlp", [True, False])
@pytest.mark.parametrize("head", [True, False])
def test_rank_alpha_and_switches_are_honoured_and_recorded(attention: bool, mlp: bool, head: bool) -> None:
    if not (attention or mlp or head):
        return
    shape = LoraShape(rank=3, alpha=5.0, seed=9, train_attention=attention, train_mlp=mlp, train_unembedding=head)
    model = TrainedModel(BASE, shape, limits=Limits())
    call = TrainingCall(batch=batch(CrossEntropy()), loss=CrossEntropy())
    for _ in range(2):
        model.forward_backward(call)
        model.optim_step(AdamParams(learning_rate=1e-2))
    files = model.adapter_files()
    tensors = safetensors.torch.load(files["adapter_model.safetensors"])
    paths = {name.removeprefix("base_model.model.").rpartition(".lora_")[0] for name in tensors}
    assert paths == (ATTENTION if attention else set()) | (MLP if mlp else set()) | (HEAD if head else set())
    for name, tensor in tensors.items():
        assert tensor.shape[1 if "lora_B" in name else 0] == 3
        assert tensor.any(), f"{name} was not trained"
    config = json.loads(files["adapter_config.json"])
    assert (config["r"], config["lora_alpha"]) == (3, 5.0)


def test_alpha_scales_what_the_adapter_adds() -> None:
    """Twice the alpha with half of B is the same model."""
    models = [TrainedModel(BASE, LoraShape(rank=4, alpha=alpha, seed=3), limits=Limits()) for alpha in (4.0, 8.0)]
    chance = torch.Generator().manual_seed(0)
    for path, halves in models[0]._adapter.halves.items():
        halves.b_OR.copy_(torch.randn(halves.b_OR.shape, generator=chance) * 0.1)
        models[1]._adapter.halves[path].b_OR.copy_(halves.b_OR / 2)
    call = TrainingCall(batch=batch(CrossEntropy()), loss=CrossEntropy())
    first, second = (model.forward(call).logprobs for model in models)
    assert first is not None
    assert second is not None
    np.testing.assert_allclose(first.values, second.values, atol=1e-5)
